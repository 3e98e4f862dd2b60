"""Which images are labelled: chosen by name alone, so that everyone gets the same split of the same data."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from cache.limits import MAX_PIXELS
from s4m_pipeline.data.cityscapes.layout import photo_name
from s4m_pipeline.data.coco import CocoData, CocoImage
from s4m_pipeline.data.findings import first_names
from s4m_pipeline.data.folder import folder_images
from s4m_pipeline.data.leak import check_leak, shared_images
from s4m_pipeline.errors import UserError


@dataclass(frozen=True)
class Split:
    """A plan: images to label and images to leave unlabelled, disjoint and free of validation images."""

    method: dict[str, Any]
    """How it was made, for the record."""
    labeled: tuple[CocoImage, ...]
    unlabeled: tuple[CocoImage, ...]
    unlabeled_root: Path
    """The folder that the unlabelled file names are relative to."""


def split_percent(data: CocoData, percent: float, seed: int, validation: Sequence[CocoData] = ()) -> Split:
    """Label `percent` of the images, chosen by `choose_percent`; the others are unlabelled.

    Raises:
        UserError: a bad percentage, images shared with `validation`, or nothing to learn from on a side.
    """
    chosen = choose_percent([image.file_name for image in data.images], percent, seed)
    return _split_by_name(data, {"name": "percent", "percent": percent, "seed": seed}, chosen, validation)


def split_listed(data: CocoData, list_path: Path, validation: Sequence[CocoData] = ()) -> Split:
    """Label the images named in a text file (`read_list`, `choose_listed`); the others are unlabelled.

    Raises:
        UserError: names that fit no image or several, or as `split_percent`.
    """
    names = [image.file_name for image in data.images]
    chosen = choose_listed(names, read_list(list_path), list_path)
    method = {"name": "list", "list": str(list_path), "sha256": _sha256(list_path)}
    return _split_by_name(data, method, chosen, validation)


def split_folder(
    data: CocoData, folder: Path, validation: Sequence[CocoData] = (), max_pixels: int = MAX_PIXELS
) -> Split:
    """Label all images of the data set; the unlabelled ones are those of a folder.

    Images of the folder that are also labelled or validation images are left out and counted in `method`.

    Raises:
        UserError: faulty images in the folder, images shared by `data` and `validation`, or as above.
    """
    first_id = max(image.id for image in data.images) + 1  # no id occurs on both sides
    found = folder_images(folder, first_id, max_pixels)
    held_out = [image for other in validation for image in other.images]
    known = {image.path for image, _ in shared_images(found, [*data.images, *held_out])}
    unlabeled = tuple(image for image in found if image.path not in known)
    method = {"name": "folder", "folder": str(folder), "left_out": len(known)}
    return _checked(data, Split(method, data.images, unlabeled, folder.resolve()), validation)


def _split_by_name(
    data: CocoData, method: dict[str, Any], chosen: Sequence[str], validation: Sequence[CocoData]
) -> Split:
    names = frozenset(chosen)
    labeled = tuple(image for image in data.images if image.file_name in names)
    unlabeled = tuple(image for image in data.images if image.file_name not in names)
    return _checked(data, Split(method, labeled, unlabeled, data.images_root), validation)


def _checked(data: CocoData, split: Split, validation: Sequence[CocoData]) -> Split:
    for other in validation:
        check_leak(data, other)
    if not any(data.class_counts(split.labeled).values()):
        raise UserError(
            f"{data.json_path}: none of the {len(split.labeled)} images to label has a usable instance. "
            "Label more images, or try another seed."
        )
    if not split.unlabeled:
        raise UserError(
            f"{data.json_path}: all {len(split.labeled)} images are labelled: none is left unlabelled. "
            "Label fewer, or name a folder of other images with --unlabeled."
        )
    return split


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def choose_percent(names: Sequence[str], percent: float, seed: int, option: str = "--percent") -> list[str]:
    """The file names to label, sorted: `percent` of `names`, rounded half up, at least one.

    The names are ranked by a hash of seed and name, and the first are taken. So the choice does not depend on
    the order of `names`, and for one seed a smaller percentage is a part of a larger one.

    Args:
        option: what `percent` was given with, for the message.

    Raises:
        UserError: `percent` is not above 0 and below 100.
    """
    if not 0 < percent < 100:
        raise UserError(f"{option} {percent:g}: expected a number above 0 and below 100.")
    ranked = sorted(
        names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode(errors="surrogateescape")).digest()
    )
    return sorted(ranked[: max(1, int(len(names) * percent / 100 + 0.5))])


def choose_listed(names: Sequence[str], listed: Sequence[str], source: Path) -> list[str]:
    """The file names that a published list means, sorted, each once.

    A listed name may have fewer or more folders than the data set's, and may lack the file ending; one of
    Cityscapes' annotation files means its photo. It must be equal to one of `names` or fit exactly one.

    Raises:
        UserError: listed names that fit none or several of `names`; `source` is named as the list.
    """
    known = frozenset(names)
    by_last: dict[str, list[str]] = defaultdict(list)
    for name in names:
        by_last[PurePosixPath(name).name].append(name)
        by_last[PurePosixPath(name).stem].append(name)
    chosen, unknown, ambiguous = set(), [], []
    for entry in listed:
        wanted = photo_name(entry)
        candidates = [name for name in by_last[PurePosixPath(wanted).name] if _same_tail(wanted, name)]
        if entry in known:
            chosen.add(entry)
        elif len(candidates) == 1:
            chosen.add(candidates[0])
        elif candidates:
            ambiguous.append(f"{entry} ({' or '.join(sorted(candidates)[:2])})")
        else:
            unknown.append(entry)
    faults = []
    if unknown:
        faults.append(f"{len(unknown)} names fit no image of the data set: {first_names(unknown)}")
    if ambiguous:
        faults.append(
            f"{len(ambiguous)} names fit several images, give their folder: {first_names(ambiguous)}"
        )
    if not listed:
        faults.append("no names; expected one image name per line")
    if faults:
        raise UserError(f"--list {source}: " + "; ".join(faults) + ".")
    return sorted(chosen)


def _same_tail(listed: str, name: str) -> bool:
    """Whether one path is the end of the other, a missing file ending in `listed` forgiven."""
    ours, theirs = list(PurePosixPath(name).parts), list(PurePosixPath(listed).parts)
    if ours[-1] != theirs[-1]:
        ours[-1] = PurePosixPath(name).stem
    common = min(len(ours), len(theirs))
    return ours[-common:] == theirs[-common:]


def read_list(path: Path) -> list[str]:
    """Names from a text file, one per line; blank lines and lines starting with # are skipped.

    Raises:
        UserError: the file cannot be read as UTF-8 text.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()  # some editors begin a file with a mark
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--list {path}: cannot be read as text ({error}).") from error
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]
