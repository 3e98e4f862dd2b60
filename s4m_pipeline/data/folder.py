"""A folder of images as unlabeled data."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from s4m_cache.limits import MAX_PIXELS
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.data.coco_entries import CocoImage
from s4m_pipeline.data.findings import Findings, Problem, first_names
from s4m_pipeline.data.images import EXTENSIONS, UNREAD, ImageError, read_header


def folder_images(folder: Path, first_id: int, max_pixels: int = MAX_PIXELS) -> list[CocoImage]:
    """All images below `folder`, sorted by name and numbered from `first_id`; sizes are of the upright image.

    Images are files with a suffix in `images.EXTENSIONS`, and links to such files.

    Raises:
        UserError: no such folder, no image in it, or unreadable images, all of which are named.
    """
    if not folder.is_dir():
        raise UserError(f"--unlabeled {folder}: no such folder. Expected a folder of images.")
    findings = Findings()
    images: list[CocoImage] = []
    for name, path in image_files(folder):
        try:
            header = read_header(path, max_pixels)
        except ImageError as error:
            findings.add(error.problem, f"{name} ({error.detail})")
            continue
        images.append(CocoImage(first_id + len(images), name, header.width, header.height, path))
    findings.raise_errors(folder, "Next: remove these files from the folder, or fix them.")
    if not images:
        suffixes = ", ".join(sorted(EXTENSIONS))
        raise UserError(f"--unlabeled {folder}: no images in it. Expected files ending in {suffixes}.")
    return images


def image_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Relative name and absolute path of every image file below `folder`, sorted by name.

    Symbolic links to files and folders are followed, wherever they lead; of several names of one file, that
    of the file itself is taken, or else the first.
    """
    found = _files(folder, EXTENSIONS)
    names: dict[Path, str] = {}
    for name, path in sorted(found, key=lambda pair: (pair[1] != folder.resolve() / pair[0], pair[0])):
        names.setdefault(path, name)
    yield from sorted((name, path) for path, name in names.items())


def unread_files(folder: Path) -> str | None:
    """A line about the images below `folder` whose format is not read; None without any."""
    names = sorted(name for name, _ in _files(folder, UNREAD))
    if not names:
        return None
    return (
        f"{folder}: {len(names)} images are left out, because their format is not read: "
        f"{first_names(names)}. Save them as PNG or JPEG to use them."
    )


def refuse_outside(images: Iterable[CocoImage], folder: Path) -> None:
    """Refuse images that a list of names relative to `folder` cannot name, because links lead out of it.

    Raises:
        UserError: naming them.
    """
    findings = Findings()
    for image in images:
        if not image.path.is_relative_to(folder):
            findings.add(Problem.FILE_OUTSIDE, image.file_name)
    findings.raise_errors(folder, "Next: copy these files into the folder.")


def _files(folder: Path, suffixes: frozenset[str]) -> list[tuple[str, Path]]:
    """Relative name and resolved path of files with these suffixes; names with a leading dot are skipped."""
    found, entered, tops = [], set(), [folder]
    for top in tops:  # linked folders are added as they are met; each folder is entered once
        for place, subfolders, names in os.walk(top):
            real = Path(place).resolve()
            subfolders[:] = [] if real in entered else [name for name in subfolders if name[0] != "."]
            if real in entered:
                continue
            entered.add(real)
            tops += sorted(link for name in subfolders if (link := Path(place, name)).is_symlink())
            for name in names:
                path = real / name
                if path.suffix.lower() in suffixes and name[0] != ".":
                    path = path.resolve() if path.is_symlink() else path
                    found.append((Path(place, name).relative_to(folder).as_posix(), path))
    return found
