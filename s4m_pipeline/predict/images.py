"""The images that a person names on the command line: files and folders, each once, under unique names."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from s4m_pipeline.data.coco import CocoImage
from s4m_pipeline.data.folder import image_files
from s4m_pipeline.data.images import EXTENSIONS, ImageError, read_header
from s4m_pipeline.errors import UserError


def list_images(paths: Sequence[Path], limit: int | None = None) -> list[CocoImage]:
    """The images at `paths`, numbered from 1 in the order of their names.

    A name is the path below the folder that all images share: the folder itself if one is given. A folder is
    searched with its subfolders for files with an ending of `EXTENSIONS`; a file may have any ending. Images
    whose header cannot be read have the size 0 x 0.

    Args:
        paths: files and folders.
        limit: take only the first images by name.

    Raises:
        UserError: if a path is missing, or there is no image.
    """
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise UserError(f"Not there: {', '.join(missing)}.\nExpected image files, or folders of images.")
    found = sorted({file for path in paths for file in _files(path)})
    if not found:
        raise UserError(
            f"No images in {', '.join(map(str, paths))}.\n"
            f"Expected files ending in {', '.join(sorted(EXTENSIONS))}, at any depth."
        )
    shared = Path(os.path.commonpath([_folder(path) for path in paths]))
    return [
        _described(number, file.relative_to(shared).as_posix(), file)
        for number, file in enumerate(found[:limit], start=1)
    ]


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from (file for _, file in image_files(path))
    else:
        yield path.parent.resolve() / path.name


def _folder(path: Path) -> Path:
    return path.resolve() if path.is_dir() else path.parent.resolve()


def _described(number: int, name: str, file: Path) -> CocoImage:
    try:
        header = read_header(file)
    except ImageError:  # reported when its turn comes
        return CocoImage(number, name, 0, 0, file)
    return CocoImage(number, name, header.width, header.height, file)
