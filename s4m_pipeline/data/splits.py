"""Choose the labeled images by name, so that a split is reproducible from the file names alone."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from s4m_cache.limits import MAX_PIXELS
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.data.cityscapes.layout import photo_name
from s4m_pipeline.data.coco import CocoData
from s4m_pipeline.data.coco_entries import CocoImage
from s4m_pipeline.data.findings import first_names
from s4m_pipeline.data.folder import folder_images, refuse_outside
from s4m_pipeline.data.labeled import check_leak, shared_images


@dataclass(frozen=True)
class Split:
    """Labeled and unlabeled images, disjoint and without validation images."""

    method: dict[str, Any]
    """How it was made, for `split.json`."""
    labeled: tuple[CocoImage, ...]
    unlabeled: tuple[CocoImage, ...]
    unlabeled_root: Path
    """The folder that the unlabeled file names are relative to."""


def split_percent(data: CocoData, percent: float, seed: int, validation: Sequence[CocoData] = ()) -> Split:
    """Label `percent` of the images, chosen by `choose_percent`; the others are unlabeled.

    Raises:
        UserError: an invalid percentage, images shared with `validation`, no usable labeled instance, or no
            unlabeled image.
    """
    chosen = choose_percent([image.file_name for image in data.images], percent, seed)
    return _split_by_name(data, {"name": "percent", "percent": percent, "seed": seed}, chosen, validation)


def split_listed(data: CocoData, list_path: Path, validation: Sequence[CocoData] = ()) -> Split:
    """Label the images named in a text file (`read_list`, `choose_listed`); the others are unlabeled.

    Raises:
        UserError: names that match no image or several; or as `split_percent`.
    """
    names = [image.file_name for image in data.images]
    chosen = choose_listed(names, read_list(list_path), list_path)
    method = {"name": "list", "list": str(list_path), "sha256": _sha256(list_path)}
    return _split_by_name(data, method, chosen, validation)


def split_folder(
    data: CocoData, folder: Path, validation: Sequence[CocoData] = (), max_pixels: int = MAX_PIXELS
) -> Split:
    """Label all images of the data set; the unlabeled ones are those of a folder.

    Images of the folder that are also labeled or validation images are left out and counted in `method`.

    Raises:
        UserError: unreadable images in the folder; or as `split_percent`.
    """
    first_id = max(image.id for image in data.images) + 1  # ids of labeled and unlabeled images are distinct
    found = folder_images(folder, first_id, max_pixels)
    held_out = [image for other in validation for image in other.images]
    known = {image.path for image, _ in shared_images(found, [*data.images, *held_out])}
    unlabeled = tuple(image for image in found if image.path not in known)
    refuse_outside(unlabeled, folder.resolve())
    method = {"name": "folder", "folder": str(folder), "left_out": len(known)}
    return checked(data, Split(method, data.images, unlabeled, folder.resolve()), validation)


def _split_by_name(
    data: CocoData, method: dict[str, Any], chosen: Sequence[str], validation: Sequence[CocoData]
) -> Split:
    names = frozenset(chosen)
    labeled = tuple(image for image in data.images if image.file_name in names)
    unlabeled = tuple(image for image in data.images if image.file_name not in names)
    return checked(data, Split(method, labeled, unlabeled, data.images_root), validation)


def checked(data: CocoData, split: Split, validation: Sequence[CocoData]) -> Split:
    """The split, which shares no images with the validation data and has usable labels and unlabeled images.

    Raises:
        UserError: if not.
    """
    for other in validation:
        check_leak(data, other)
    if not any(data.class_counts(split.labeled).values()):
        raise UserError(
            f"{data.json_path}: none of the {len(split.labeled)} labeled images has a usable instance. "
            "Label more images, or use a different seed."
        )
    if not split.unlabeled:
        raise UserError(
            f"{data.json_path}: all {len(split.labeled)} images are labeled, so no unlabeled images remain. "
            "Label fewer images, or pass a folder of more images with --unlabeled."
        )
    return split


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def choose_percent(names: Sequence[str], percent: float, seed: int, option: str = "--percent") -> list[str]:
    """Choose `percent` of `names`, rounded half up, at least one; sorted.

    The names are ranked by a hash of seed and name, and the first are taken. So the choice does not depend on
    the order of `names`, and with one seed a smaller percentage is a subset of a larger one.

    Args:
        option: name of the command line option, for the message.

    Raises:
        UserError: `percent` is not above 0 and below 100.
    """
    if not 0 < percent < 100:
        raise UserError(f"{option} {percent:g}: expected a percentage above 0 and below 100.")
    ranked = sorted(
        names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode(errors="surrogateescape")).digest()
    )
    return sorted(ranked[: max(1, int(len(names) * percent / 100 + 0.5))])


def choose_listed(names: Sequence[str], listed: Sequence[str], source: Path) -> list[str]:
    """Match the names of a published list with `names`; sorted, without duplicates.

    A listed name may have fewer or more folders than the data set's and may lack the suffix; an annotation
    file of Cityscapes stands for its photo. It must be equal to one of `names` or match exactly one.

    Raises:
        UserError: listed names that match none or several of `names`; `source` is the list, for the message.
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
        faults.append(f"{len(unknown)} names match no image of the data set: {first_names(unknown)}")
    if ambiguous:
        faults.append(f"{len(ambiguous)} names match several images, add folders: {first_names(ambiguous)}")
    if not listed:
        faults.append("empty; expected one image name per line")
    if faults:
        raise UserError(f"--list {source}: " + "; ".join(faults) + ".")
    return sorted(chosen)


def _same_tail(listed: str, name: str) -> bool:
    """Whether one path is the end of the other; `listed` may lack the suffix."""
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
        lines = path.read_text(encoding="utf-8-sig").splitlines()  # some editors add a byte order mark
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--list {path}: cannot be read as text ({error}).") from error
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]
