"""The lock on a training's folder: held by the process that trains there, on whatever machine."""

import time
from pathlib import Path

from s4m_cache.errors import LockedError
from s4m_cache.locks import FileLock
from s4m_pipeline.core.errors import UserError

LOCK = "LOCK"


def lock_training(folder: Path) -> FileLock:
    """Lock a training's folder until `release`, or until this process dies.

    Raises:
        UserError: if another process trains there.
    """
    try:
        return FileLock(folder / LOCK, exclusive=True)
    except LockedError:
        time.sleep(0.2)  # `running_process` holds it for a moment
    try:
        return FileLock(folder / LOCK, exclusive=True)
    except LockedError as error:
        raise UserError(
            f"Another process trains in this folder: {error}.\nWait for it or stop it; the same command then "
            "resumes the training. For a second run, give another --work-dir."
        ) from error


def running_process(folder: Path) -> str | None:
    """Host and process that train in a folder, as text; None if none does, as after a kill."""
    try:
        FileLock(folder / LOCK, exclusive=False).release()
    except LockedError:
        return (folder / LOCK).read_text(errors="replace").strip() or "another process"
    except FileNotFoundError:
        pass
    return None
