"""File names in a data set's JSON are untrusted: they become paths only inside the image folder."""

import os
from pathlib import Path, PurePosixPath


class ImageRoot:
    """The folder that the file names of a data set are relative to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._subfolders: dict[PurePosixPath, Path] = {}

    def locate(self, file_name: str) -> Path | None:
        """Absolute path free of links, or None when `file_name` is not a relative name inside the folder.

        The file need not exist. A link counts as the file it leads to, so one that leaves the folder is None.
        """
        name = PurePosixPath(file_name)
        if name.is_absolute() or ".." in name.parts or not name.name or not _is_possible(file_name):
            return None
        try:
            path = self._subfolder(name.parent) / name.name
            if path.is_symlink():
                path = path.resolve()
        except (OSError, RuntimeError):  # too long a name, or a loop of links
            return None
        return path if path.is_relative_to(self.folder) else None

    def _subfolder(self, name: PurePosixPath) -> Path:
        # Resolved once per folder: resolving each of 100,000 files costs a lstat per path component.
        if name not in self._subfolders:
            self._subfolders[name] = (self.folder / name).resolve()
        return self._subfolders[name]


def _is_possible(file_name: str) -> bool:
    """Whether a file can have this name here and, so that a data set can move, on other systems."""
    try:
        os.fsencode(file_name)
    except UnicodeEncodeError:
        return False
    return "\\" not in file_name and "\0" not in file_name


def images_beside(json_path: Path) -> Path:
    """Where the images are when nobody says: `train/` beside `train.json`, else the folder of the JSON."""
    folder = json_path.with_suffix("")
    return folder if folder.is_dir() else json_path.parent
