"""A plain folder of images as unlabelled data."""

from collections.abc import Iterator
from pathlib import Path

from cache.limits import MAX_PIXELS
from s4m_pipeline.data.coco import CocoImage
from s4m_pipeline.data.findings import Findings, Problem
from s4m_pipeline.data.images import EXTENSIONS, ImageError, read_header
from s4m_pipeline.data.root import ImageRoot
from s4m_pipeline.errors import UserError


def folder_images(folder: Path, first_id: int, max_pixels: int = MAX_PIXELS) -> list[CocoImage]:
    """All images below `folder`, sorted by name and numbered from `first_id`; sizes are those when upright.

    An image is a file with an ending of `images.EXTENSIONS`; names starting with a dot are skipped.

    Raises:
        UserError: no such folder, no image in it, or files that are no readable image, all named.
    """
    if not folder.is_dir():
        raise UserError(f"--unlabeled {folder}: no such folder. Expected a folder of images.")
    findings = Findings()
    images: list[CocoImage] = []
    for name, path in image_files(folder, findings):
        try:
            header = read_header(path, max_pixels)
        except ImageError as error:
            findings.add(error.problem, f"{name} ({error.detail})")
            continue
        images.append(CocoImage(first_id + len(images), name, header.width, header.height, path))
    findings.raise_errors(folder, "Next: take these files out of the folder, or mend them.")
    if not images:
        endings = ", ".join(sorted(EXTENSIONS))
        raise UserError(f"--unlabeled {folder}: no images below it. Expected files ending in {endings}.")
    return images


def image_files(folder: Path, findings: Findings | None = None) -> Iterator[tuple[str, Path]]:
    """Name below `folder` and absolute path of every image file there, sorted by name.

    A link inside the folder is passed over: the file it leads to is listed itself. One that leads outside is
    passed over too, and goes into `findings`.
    """
    root = ImageRoot(folder)
    for name in _image_names(root.folder):
        path = root.locate(name)
        if path is None:
            if findings is not None:
                findings.add(Problem.FILE_OUTSIDE, name)
        elif path == root.folder / name:
            yield name, path


def _image_names(folder: Path) -> list[str]:
    names = [path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir()]
    return sorted(
        name.as_posix()
        for name in names
        if name.suffix.lower() in EXTENSIONS and not any(part.startswith(".") for part in name.parts)
    )
