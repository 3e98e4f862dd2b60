"""The images given on the command line: files and folders, each image once, with a unique name."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from s4m_pipeline.core import console
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.data.coco_entries import CocoImage
from s4m_pipeline.data.folder import image_files, unread_files
from s4m_pipeline.data.images import EXTENSIONS, ImageError, read_header


def list_images(paths: Sequence[Path], limit: int | None = None) -> list[CocoImage]:
    """The images at `paths`, numbered from 1 in the order of their names.

    A name is the path below the folder that all images share: the folder itself if one is given. A folder is
    searched recursively for files with an extension of `EXTENSIONS`; a file may have any. Images whose header
    cannot be read have the size 0 x 0.

    Args:
        paths: files and folders.
        limit: take only the first images by name.

    Raises:
        UserError: if a path is missing, or there is no image.
    """
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise UserError(f"Not found: {', '.join(missing)}.\nExpected image files, or folders of images.")
    places = {file: place for path in paths for place, file in _files(path)}
    for path in paths:
        if path.is_dir() and (left_out := unread_files(path)):
            console.progress.print(left_out, soft_wrap=True)
    found = sorted((place, file) for file, place in places.items())
    if not found:
        raise UserError(
            f"No images in {', '.join(map(str, paths))}.\n"
            f"Expected files ending in {', '.join(sorted(EXTENSIONS))}, at any depth."
        )
    shared = Path(os.path.commonpath([_folder(path) for path in paths]))
    return [
        _described(number, place.relative_to(shared).as_posix(), file)
        for number, (place, file) in enumerate(found[:limit], start=1)
    ]


def _files(path: Path) -> Iterator[tuple[Path, Path]]:
    """Where each image is listed, and its file, which is elsewhere if it is a link in a folder."""
    if path.is_dir():
        yield from ((path.resolve() / name, file) for name, file in image_files(path))
    else:
        file = path.parent.resolve() / path.name
        yield file, file


def _folder(path: Path) -> Path:
    return path.resolve() if path.is_dir() else path.parent.resolve()


def _described(number: int, name: str, file: Path) -> CocoImage:
    try:
        header = read_header(file)
    except ImageError:  # reported when it is read
        return CocoImage(number, name, 0, 0, file)
    return CocoImage(number, name, header.width, header.height, file)
