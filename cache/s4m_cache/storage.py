"""What a file system and an object store do differently; the rest of the cache does not know which it is.

A file system renames what is complete, and locks what is in use. An object store such as S3 has neither, but
writes an object whole, and only if it is absent, or the one that was read: several objects are complete when
the last of them is there, and of two processes that publish, one notices and looks again.
"""

import errno
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, TypeVar

from s4m_cache.atomic import atomic_folder, write_bytes
from s4m_cache.errors import CacheError
from s4m_cache.locks import FileLock

ABSENT = ""
"""Version of a file that does not exist."""
REQUESTS = 16
"""Objects that are written, or opened, at once."""
_BATCH = 16 * REQUESTS
Item = TypeVar("Item")
Result = TypeVar("Result")


class ReplacedError(CacheError):
    """Another process has replaced a file since its version was read."""


class Unlocked:
    """In place of a lock, where nobody can be kept out."""

    def release(self) -> None:
        """Nothing was taken."""

    def __enter__(self) -> "Unlocked":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class FileSystem:
    """Folders that are renamed when they are complete, under locks that the kernel releases."""

    def make_root(self, root: Path) -> None:
        """Create the cache's folder if needed."""
        root.mkdir(parents=True, exist_ok=True)

    def lock(self, path: Path, *, exclusive: bool, wait: bool = False) -> FileLock | Unlocked:
        """Hold a lock; see `FileLock`."""
        return FileLock(path, exclusive=exclusive, wait=wait)

    def is_complete(self, folder: Path, last: str) -> bool:
        """Whether a folder of `new_folder` is there, perhaps damaged."""
        return folder.exists()

    def complete_folders(self, path: Path, last: str) -> list[Path]:
        """All folders of `new_folder` below `path`, perhaps damaged, besides those that are being written.

        Raises:
            FileNotFoundError: if there is no `path`.
        """
        return list(path.iterdir())

    def new_folder(self, path: Path, last: str) -> AbstractContextManager[Path]:
        """Yield a folder of this machine to fill; on success it becomes `path`, at once.

        Args:
            path: the new folder.
            last: its file that makes it complete, where files arrive one by one.

        Raises:
            OSError: as the file system reports it.
        """
        return atomic_folder(path)

    def next_number(self, used: Sequence[int]) -> int:
        """A running number that no other writer takes."""
        return max(used, default=0) + 1

    def version(self, path: Path) -> str:
        """What `write` compares; nothing where a lock keeps others out."""
        return ABSENT

    def write(self, path: Path, data: bytes, version: str | None = None) -> None:
        """Replace a file: a reader sees the old content or the new.

        Args:
            path: the file.
            data: its new content.
            version: of the file that may be replaced; None: any.

        Raises:
            ReplacedError: if it has another version.
            OSError: as the file system reports it.
        """
        write_bytes(path, data)

    def read(self, path: Path) -> bytes:
        """The content of a file.

        Raises:
            FileNotFoundError: if there is none.
            OSError: as the file system reports it.
        """
        return path.read_bytes()

    def each(self, work: Callable[[Item], Result], items: Sequence[Item]) -> Iterable[Result]:
        """What `work`, which waits for reads, makes of each item, in order and not kept."""
        return map(work, items)

    def read_files(self, folder: Path, names: Sequence[str]) -> dict[str, bytes]:
        """The content of files of a folder, without those that are missing."""
        files = {}
        for name in names:
            with suppress(FileNotFoundError):
                files[name] = (folder / name).read_bytes()
        return files


class ObjectStore:
    """Objects of S3, by paths of universal-pathlib. Nothing is locked; see `FileSystem` for the methods."""

    def make_root(self, root: Path) -> None:
        """Refuse a store that does not keep conditions, which everything here relies on."""
        self._require_s3(root)
        if self._create(root / "LOCK", b"") and self._create(root / "LOCK", b""):
            raise CacheError(
                f"{root}: the object store replaces what exists although it is told not to (If-None-Match), "
                "so that two processes could mix their labels. Put the cache on a file system, or use S3"
            )

    def lock(self, path: Path, *, exclusive: bool, wait: bool = False) -> FileLock | Unlocked:
        return Unlocked()

    def is_complete(self, folder: Path, last: str) -> bool:
        return (folder / last).exists()

    def complete_folders(self, path: Path, last: str) -> list[Path]:
        place: Any = path
        keys: list[str] = place.fs.find(place.path)
        return [path / key.split("/")[-2] for key in keys if key.endswith(f"/{last}")]

    @contextmanager
    def new_folder(self, path: Path, last: str) -> Iterator[Path]:
        self._require_s3(path)
        place: Any = path
        _ = place.fs  # one connection for all threads
        with TemporaryDirectory(prefix="s4m-") as temporary:
            folder = Path(temporary)
            yield folder
            files = [file for file in folder.rglob("*") if file.is_file()]
            names = [file.relative_to(folder).as_posix() for file in files]
            with ThreadPoolExecutor(REQUESTS) as pool:
                uploads = [pool.submit(self._upload, folder, path, name) for name in names if name != last]
            for upload in uploads:
                upload.result()
            self._upload(folder, path, last)

    def next_number(self, used: Sequence[int]) -> int:
        return 10**11 + secrets.randbelow(9 * 10**11)

    def version(self, path: Path) -> str:
        place: Any = path
        try:
            return str(place.fs.info(place.path)["ETag"])
        except FileNotFoundError:
            return ABSENT

    def write(self, path: Path, data: bytes, version: str | None = None) -> None:
        place: Any = path
        if version is None:
            with _as_os_errors(path):
                place.fs.pipe_file(place.path, data)
            return
        self._require_s3(path)
        if version == ABSENT:
            if not self._create(path, data):
                raise ReplacedError(f"{path} was created by another process")
            return
        try:
            with _as_os_errors(path):
                place.fs.pipe_file(place.path, data, IfMatch=version)
        except OSError as error:  # there is none for this case alone
            if self.version(path) != version:
                raise ReplacedError(f"{path} was replaced by another process") from error
            raise

    def read(self, path: Path, start: int = 0, end: int | None = None) -> bytes:
        """The bytes of an object that there are from `start`, if negative from the end on, up to `end`."""
        place: Any = path
        try:
            # From 0 on: to read all of an object, s3fs would first ask for its size.
            data: bytes = place.fs.cat_file(place.path, start=start, end=end)
        except OSError as error:
            if not _is_beyond_end(error):
                raise
            data = b""
        return data

    def each(self, work: Callable[[Item], Result], items: Sequence[Item]) -> Iterable[Result]:
        with ThreadPoolExecutor(REQUESTS) as pool:
            for start in range(0, len(items), _BATCH):
                yield from pool.map(work, items[start : start + _BATCH])

    def read_files(self, folder: Path, names: Sequence[str]) -> dict[str, bytes]:
        place: Any = folder
        keys = {f"{place.path}/{name}": name for name in names}
        files = {}
        for key, found in zip(keys, place.fs.cat_ranges(list(keys), 0, None), strict=True):
            if isinstance(found, bytes) or _is_beyond_end(found):
                files[keys[key]] = found if isinstance(found, bytes) else b""
            elif not isinstance(found, FileNotFoundError):
                raise found
        return files

    def _upload(self, folder: Path, path: Path, name: str) -> None:
        data = (folder / name).read_bytes()
        if not self._create(path / name, data) and (path / name).read_bytes() != data:
            problem = "another process wrote it, with different content"
            raise FileExistsError(errno.EEXIST, problem, str(path / name))

    def _create(self, path: Path, data: bytes) -> bool:
        """Write an object unless it exists; whether it did not."""
        place: Any = path
        try:
            with _as_os_errors(path):
                place.fs.pipe_file(place.path, data, mode="create")
        except FileExistsError:
            return False
        return True

    def _require_s3(self, path: Path) -> None:
        place: Any = path
        if place.protocol != "s3":
            raise CacheError(
                f"{path}: labels are written to file systems and to s3:// only, where writes can have "
                f"conditions; caches of {place.protocol}:// are only read"
            )


def storage(path: Path) -> FileSystem | ObjectStore:
    """What holds a path of this machine, or the address of an object."""
    return ObjectStore() if is_remote(path) else FileSystem()


def is_remote(path: Path) -> bool:
    """Whether it is an address in an object store, which has the methods of a path."""
    return not isinstance(path, Path)


def _is_beyond_end(error: Exception) -> bool:
    """Whether a range was refused because the object, which may be empty, ends before it."""
    answer = getattr(error.__cause__, "response", None) or {}
    return answer.get("Error", {}).get("Code") in ("InvalidRange", "416")


@contextmanager
def _as_os_errors(path: Path) -> Iterator[None]:
    """Turn exceptions of an object store's own packages into one of a mount that is gone."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(errno.ENOTCONN, f"the object store fails ({error})", str(path)) from error
