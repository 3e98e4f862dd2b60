"""File locks that the kernel releases when their owner ends, even if it is killed."""

import fcntl
import os
import socket
import weakref
from pathlib import Path
from types import TracebackType

from s4m_cache.errors import CacheError, LockedError


class FileLock:
    """An advisory lock on a file: any number of shared holders, or one exclusive one.

    The file is created if needed and never removed. A child made by `fork` does not hold its parent's locks.

    Args:
        path: the file; an exclusive holder writes its host and process into it, for messages.
        exclusive: whether no other process may hold the lock at the same time.
        wait: wait until the lock is free instead of raising.

    Raises:
        LockedError: if another process holds it and `wait` is false.
        CacheError: if the file system does not support locks.
    """

    def __init__(self, path: Path, *, exclusive: bool, wait: bool = False) -> None:
        self.path = path
        self._descriptor: int | None = None
        # Readers may be on a read-only mount; network file systems want write access for an exclusive lock.
        mode = os.O_RDWR | os.O_CREAT if exclusive else os.O_RDONLY
        self._descriptor = os.open(path, mode, 0o666)
        try:
            kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
            fcntl.flock(self._descriptor, kind if wait else kind | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            owner = path.read_text(errors="replace").strip() or "another process"
            raise LockedError(f"{path} is held by {owner}") from None
        except OSError as error:
            self.release()
            raise CacheError(
                f"cannot lock {path}: {error.strerror}. The cache needs a file system that supports flock; "
                "mount it with flock enabled (Lustre: -o flock), or put the cache elsewhere"
            ) from None
        _held.add(self)
        if exclusive:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"host {socket.gethostname()}, process {os.getpid()}\n".encode(), 0)

    def __del__(self) -> None:
        self.release()

    def fileno(self) -> int:
        """The open file; a process that inherits it holds the lock as well, until it ends.

        Raises:
            ValueError: after `release`.
        """
        if self._descriptor is None:
            raise ValueError(f"{self.path} was released")
        return self._descriptor

    def release(self) -> None:
        """Release the lock; calling it again does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> "FileLock":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _release_in_child() -> None:
    # Otherwise an orphaned DataLoader worker would keep the shard of a killed writer locked.
    for lock in list(_held):
        lock.release()


_held: "weakref.WeakSet[FileLock]" = weakref.WeakSet()
os.register_at_fork(after_in_child=_release_in_child)
