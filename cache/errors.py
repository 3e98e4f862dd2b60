"""The exceptions of this package that a user can mend."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


class CacheError(Exception):
    """A fault of a cache on disk or of its use.

    The message says what is wrong, where, what was expected and what to do next.
    """


class LockedError(CacheError):
    """Another living process holds what was asked for."""


class DamagedError(CacheError):
    """Bytes on disk are not those that were written.

    Attributes:
        path: the part, or the file, that is damaged.
        problem: what was found and what was expected.
        image_ids: the images it concerns, as far as they are known.
    """

    def __init__(self, path: Path, problem: str, image_ids: Sequence[int] = ()) -> None:
        self.path, self.problem, self.image_ids = path, problem, tuple(image_ids)
        images = f" Images concerned: {abridged(image_ids)}." if len(image_ids) else ""
        super().__init__(
            f"{path}: {problem}.{images} Nothing was read from it. "
            "See `s4m cache verify`; `s4m cache repair` removes what is damaged so that refine can redo it."
        )

    def __reduce__(self) -> tuple[type, tuple[Path, str, tuple[int, ...]]]:
        return DamagedError, (self.path, self.problem, self.image_ids)


def disk_error(path: Path, needed_bytes: int, error: OSError) -> CacheError:
    """Turn what the file system reported while writing `path` into a message with needed and free bytes."""
    folder = next((parent for parent in (path, *path.parents) if parent.is_dir()), Path("/"))
    return CacheError(
        f"cannot write {path}: {error.strerror or error}. Needed about {needed_bytes:,} bytes; "
        f"{shutil.disk_usage(folder).free:,} bytes are free at {folder}. What was stored before is intact. "
        "Make room, or mend the mount or the quota, and run the same command again."
    )


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn a mount or permission fault while reading `path` into a CacheError, but for a missing file."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise CacheError(
            f"cannot read {path}: {error.strerror or error}. Mend the mount or the permissions and run "
            "again; nothing was changed"
        ) from error


def abridged(values: Sequence[int], limit: int = 8) -> str:
    """List the first values and count the rest: `3, 5, 9 ... (412 in all)`."""
    text = ", ".join(str(int(value)) for value in values[:limit])
    return text if len(values) <= limit else f"{text} ... ({len(values)} in all)"
