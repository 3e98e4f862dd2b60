"""run.json of a stage: settings, data, versions, sessions and result; and the lock of its writer."""

import json
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from s4m_cache.atomic import write_text
from s4m_cache.errors import LockedError
from s4m_cache.locks import FileLock
from s4m_pipeline.core import console
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.core.paths import IMAGE_FILES, RUN
from s4m_pipeline.core.signals import Interrupted
from s4m_pipeline.experiment.changes import changes, plain
from s4m_pipeline.experiment.checkpoints import latest_checkpoint
from s4m_pipeline.experiment.image_files import image_changes, record_images

LOCK = "LOCK"
_PACKAGES = (
    "s4m-pipeline",
    "torch",
    "torchvision",
    "onedl-mmdetection",
    "onedl-mmengine",
    "onedl-mmcv",
    "rf-sam-2",
    "numpy",
)
_LOGGERS = "log/vis_data"


@dataclass
class RunRecord:
    """The run.json of a stage; every change is written at once and atomically, by rank 0.

    Rank 0 locks the folder from `open` to the end of the session, or until it dies.
    """

    folder: Path
    content: dict[str, Any]
    lock: FileLock | None
    """None on the other ranks."""

    @classmethod
    def open(
        cls,
        folder: Path,
        stage: str,
        config: Mapping[str, Any],
        data: Mapping[str, str],
        *,
        images: Sequence[Path] = (),
        overwrite: bool,
    ) -> "RunRecord":
        """Start a stage in `folder`, or resume the interrupted run found there.

        Args:
            config: the whole config with all defaults, as plain values.
            data: sha256 of each file that the result depends on.
            images: files that the result depends on, which are recorded at the start.
            overwrite: delete the outputs of an earlier run first.

        Raises:
            UserError: if the folder holds a finished run, or an interrupted one of different settings or
                data, or another process works in it.
        """
        folder.mkdir(parents=True, exist_ok=True)
        lock = lock_training(folder)
        try:
            if overwrite:
                _delete_outputs(folder)
            for half_written in folder.glob(".tmp-*"):  # by a run that was killed
                half_written.unlink()
            content = _content(folder, stage, config, data)
            if images and not content["sessions"]:
                record_images(folder, images)
        except BaseException:
            lock.release()
            raise
        content.update(status="running", versions=versions(), git=git_state(), result=None)
        content["sessions"].append({"started": now(), "host": platform.node()})
        record = cls(folder, content, lock)
        record._write()
        return record

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "lock": None}

    def note(self, **values: Any) -> None:
        """Add to the entry of this session."""
        self.content["sessions"][-1].update(values)
        self._write()

    @contextmanager
    def session(self) -> Iterator[dict[str, Any]]:
        """Do the stage's work in this context, and put its result into the dict that it gives.

        The record ends as "finished"; as "interrupted" when a signal stopped a training that has saved
        itself, which then exits with the signal's code; or as "failed".
        """
        began = time.perf_counter()
        result: dict[str, Any] = {}
        try:
            yield result
        except Interrupted as signal:
            self._close("interrupted")
            console.progress.print(f"{signal}: saved in {self.folder}; the same command resumes from there.")
            raise SystemExit(signal.exit_code) from None
        except BaseException:
            self._close("failed")
            raise
        else:
            self._close("finished", {**result, "seconds": round(time.perf_counter() - began, 1)})
        finally:  # after the last write: whoever finds the folder unlocked also finds how the run ended
            if self.lock is not None:
                self.lock.release()

    def _close(self, status: str, result: Mapping[str, Any] | None = None) -> None:
        self.content["sessions"][-1]["ended"] = now()
        self.content.update(status=status, result=result)
        self._write()

    def _write(self) -> None:
        from mmengine.dist import is_main_process  # imports torch, which readers can do without

        if is_main_process():
            write_text(self.folder / RUN, json.dumps(self.content, indent=2) + "\n")


def read_run(folder: Path) -> dict[str, Any] | None:
    """The content of a stage's run.json, or None where the stage has not begun.

    Raises:
        UserError: if it is damaged.
    """
    path = folder / RUN
    if not path.exists():
        return None
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        return content
    except ValueError as error:
        raise UserError(
            f"{path} is damaged: {error}\nDelete it with its folder, or use --overwrite."
        ) from error


TrainingState = Literal["running", "absent", "ended"]
"""Of a training: a process works on it; it was stopped, killed or has not started; or it has ended."""


def training_state(folder: Path) -> TrainingState:
    """What the training in a folder does at this moment, on whatever machine."""
    running = running_process(folder)  # asked first: whoever released the folder has recorded how it ended
    if (read_run(folder) or {}).get("status") in ("finished", "failed"):
        return "ended"
    return "running" if running else "absent"


def _content(folder: Path, stage: str, config: Mapping[str, Any], data: Mapping[str, str]) -> dict[str, Any]:
    """That of the run to resume; of a new one where nothing was saved to resume from."""
    earlier = read_run(folder)
    if earlier is None or (earlier["status"] != "finished" and latest_checkpoint(folder) is None):
        return {"stage": stage, "config": plain(config), "data": dict(data), "sessions": []}
    if earlier["status"] == "finished":
        raise UserError(
            f"{stage} is already finished in {folder} (result: {earlier['result']}).\n"
            "Use --overwrite to delete it and train again, or another --work-dir."
        )
    if changed := [*changes(earlier, config, data), *image_changes(folder)]:
        raise UserError(
            f"{folder} holds an interrupted run of different settings or data:\n  "
            + "\n  ".join(changed[:10])
            + "\nRepeat the earlier command to resume it, use --overwrite to delete it and start from "
            "scratch, or give another --work-dir."
        )
    return {**earlier, "config": plain(config)}


def _delete_outputs(folder: Path) -> None:
    """Delete what a stage writes and nothing else: the folder may be the user's own."""
    if (folder / _LOGGERS).is_dir():
        shutil.rmtree(folder / _LOGGERS)
    for pattern in (RUN, IMAGE_FILES, "*.jsonl", "*.pth", "last_checkpoint", "*.safetensors", "log/*"):
        for path in folder.glob(pattern):
            path.unlink()


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


def versions() -> dict[str, str | None]:
    """Of Python and of the packages that results depend on; None for one that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def git_state() -> dict[str, Any] | None:
    """Commit of the repository that this code runs from, and whether it has changes; None without one."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.CalledProcessError):
        return None


def now() -> str:
    """The time in UTC, ISO 8601 with seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def duration_s(run: Mapping[str, Any]) -> float | None:
    """Seconds of all sessions of a run.json that ended; None if none did."""
    ended = [session for session in run.get("sessions", ()) if session.get("ended")]
    spans = [
        datetime.fromisoformat(session["ended"]) - datetime.fromisoformat(session["started"])
        for session in ended
    ]
    return sum(span.total_seconds() for span in spans) if spans else None


def duration_text(seconds: float) -> str:
    """`42 s`, `6 min 12 s`, `3 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
