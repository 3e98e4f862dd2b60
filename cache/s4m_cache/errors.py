"""The exceptions of this package that a user can fix."""

import errno
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

REPAIR = "See `s4m cache verify`; `s4m cache repair` removes what is damaged so that refine can redo it."

MOUNT_FAULTS = frozenset({errno.ESTALE, errno.ENOTCONN})
"""Error numbers of every access to a network mount that is gone."""


class CacheError(Exception):
    """A cache on disk is faulty or was used wrongly; the message says how to fix it."""


class LockedError(CacheError):
    """Another living process holds what was asked for."""


class DamagedError(CacheError):
    """Bytes on disk are not those that were written.

    Attributes:
        path: the part, or the file, that is damaged.
        problem: what was found and what was expected.
        image_ids: the affected images, as far as they are known.
        remedy: what to do next.
    """

    def __init__(self, path: Path, problem: str, image_ids: Sequence[int] = (), remedy: str = REPAIR) -> None:
        self.path, self.problem, self.image_ids = path, problem, tuple(image_ids)
        self.remedy = remedy
        images = f" Affected images: {abridged(image_ids)}." if len(image_ids) else ""
        super().__init__(f"{path}: {problem}.{images} Nothing was read from it. {remedy}")

    def __reduce__(self) -> tuple[type, tuple[Path, str, tuple[int, ...], str]]:
        return DamagedError, (self.path, self.problem, self.image_ids, self.remedy)


def disk_error(path: Path, needed_bytes: int, error: OSError) -> CacheError:
    """Turn what was reported while writing `path` into a message, on a disk with needed and free bytes."""
    if not isinstance(path, Path):
        return CacheError(
            f"cannot write {path}: {error.strerror or error}. What was stored before is intact. Check "
            "network, address, credentials and permissions, and run the same command again."
        )
    return CacheError(
        f"cannot write {path}: {error.strerror or error}. Needed about {needed_bytes:,} bytes; "
        f"{free_space(path)}. What was stored before is intact. "
        "Free disk space, or fix the mount or the quota, and run the same command again."
    )


def require_space(path: Path, needed_bytes: int, purpose: str) -> None:
    """Stop while everything is stored, and not in the middle of a write that fills the disk.

    Called before a stage with what it will write, and after each large file with what the next one needs.

    Args:
        path: what is written, there or not.
        purpose: what needs these bytes.

    Raises:
        CacheError: if fewer are free.
    """
    free, _ = _free_at(path) if isinstance(path, Path) else (None, path)  # an object store does not fill
    if free is not None and free < needed_bytes:
        raise CacheError(
            f"{path}: {purpose} needs about {needed_bytes:,} bytes, but {free_space(path)}. What was stored "
            "before is intact. Free disk space, and run the same command again"
        )


def free_space(path: Path) -> str:
    """`1,234 bytes are free at FOLDER`, for the nearest readable folder above `path`; `?` without any."""
    free, folder = _free_at(path)
    return f"{'?' if free is None else format(free, ',')} bytes are free at {folder}"


def _free_at(path: Path) -> tuple[int | None, Path]:
    """Free bytes, and the nearest readable folder above `path`; None and `path` without any."""
    for folder in (path, *path.parents):
        try:
            if folder.is_dir():
                return shutil.disk_usage(folder).free, folder
        except OSError:  # a stale mount, or no permission to look inside
            continue
    return None, path


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn an error of mount, permission or object store into a CacheError; FileNotFoundError passes."""
    try:
        yield
    except (FileNotFoundError, CacheError):
        raise
    except Exception as error:
        if not isinstance(path, Path):  # each store has exceptions of its own
            problem, fix = f"the object store fails ({error})", "Check network, address and credentials,"
        elif isinstance(error, OSError):
            problem, fix = error.strerror or str(error), "Fix the mount or the permissions"
        else:
            raise
        message = f"cannot read {path}: {problem}. Nothing was changed. {fix} and run again"
        raise CacheError(message) from error


def abridged(values: Sequence[int] | Sequence[str], limit: int = 8) -> str:
    """List the first values and count the rest: `3, 5, 9 ... (412 in all)`."""
    text = ", ".join(str(value) for value in values[:limit])
    return text if len(values) <= limit else f"{text} ... ({len(values)} in all)"
