"""Paths of a data set's images. File names in a JSON are untrusted: they must lie in the image folder."""

import functools
import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from s4m_cache.storage import is_remote
from s4m_pipeline.core.locations import list_folder


class ImageRoot:
    """The folder that the file names of a data set are relative to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._subfolders: dict[PurePosixPath, Path] = {}

    def locate(self, file_name: str) -> Path | None:
        """Absolute path with symbolic links resolved; None if it is not a relative path inside the folder.

        The file need not exist.
        """
        name = PurePosixPath(file_name)
        if name.is_absolute() or ".." in name.parts or not name.name or not _is_portable(file_name):
            return None
        try:
            path = self._subfolder(name.parent) / name.name
            if not is_remote(path) and path.is_symlink():
                path = path.resolve()
        except (OSError, RuntimeError):  # the name is too long, or links form a loop
            return None
        return path if path.is_relative_to(self.folder) else None

    def _subfolder(self, name: PurePosixPath) -> Path:
        # Resolved once per folder: resolving each of 100,000 files would cost an lstat per path component.
        if name not in self._subfolders:
            self._subfolders[name] = (self.folder / name).resolve()
            if is_remote(self.folder):
                list_folder(self._subfolders[name])
        return self._subfolders[name]


def missing_name(path: Path, file_name: str) -> str:
    """Name of a missing image, with a file below its image folder whose name has the same last part.

    Upper and lower case, the Unicode form, and the escapes of addresses (`%20`) do not count.
    """
    if is_remote(path):
        return file_name
    folder = path.parents[len(PurePosixPath(file_name).parts) - 1]
    similar = _by_last_part(folder).get(_last_part(file_name))
    return f"{file_name} (there is {similar})" if similar else file_name


def folder_advice(folder: Path, file_names: Sequence[str]) -> str:
    """What to do where no image is found because the folder is wrong, or all file names have a wrong prefix.

    Args:
        folder: the image folder.
        file_names: of all images of a data set.

    Returns:
        One line with its line end; empty if there is another reason, or several.
    """
    if any((folder / name).is_file() for name in file_names):
        return ""
    there = _by_last_part(folder)
    prefixes = {_prefixes(name, there.get(_last_part(name), "")) for name in file_names}
    (found, *others) = prefixes or {None}
    if found is None or others:
        return ""
    given, actual = found
    if not given:
        return f"All images are in {folder / actual}: give that as the image folder.\n"
    parent = Path(str(folder).removesuffix(f"/{given}"))
    if not actual and parent != folder:
        return f"Every `file_name` begins with {given}/: give {parent} as the image folder, not {folder}.\n"
    instead = f"replace it by {actual}/" if actual else "remove it"
    return (
        f"Every `file_name` begins with {given}/, but {folder} has no such folder: {instead} in the JSON.\n"
    )


def _prefixes(file_name: str, found: str) -> tuple[str, str] | None:
    """Folders of a file name and of the file that it means, without those that both end in; None: no file."""
    given, actual = list(PurePosixPath(file_name).parts), list(PurePosixPath(found).parts)
    if not found or given[-1] != actual[-1]:
        return None
    while given and actual and given[-1] == actual[-1]:
        given.pop()
        actual.pop()
    return "/".join(given), "/".join(actual)


@functools.lru_cache(maxsize=4)
def _by_last_part(folder: Path) -> dict[str, str]:
    return {
        _last_part(name): Path(place, name).relative_to(folder).as_posix()
        for place, _, names in os.walk(folder)
        for name in names
    }


def _last_part(name: str) -> str:
    return unicodedata.normalize("NFC", unquote(PurePosixPath(name).name)).casefold()


def _is_portable(file_name: str) -> bool:
    """Whether a file can have this name on all systems, so that a data set can be moved."""
    try:
        os.fsencode(file_name)
    except UnicodeEncodeError:
        return False
    return "\\" not in file_name and "\0" not in file_name


def images_beside(json_path: Path) -> Path:
    """The default image folder: `train/` beside `train.json`, else the folder of the JSON."""
    folder = json_path.with_suffix("")
    return folder if folder.is_dir() else json_path.parent
