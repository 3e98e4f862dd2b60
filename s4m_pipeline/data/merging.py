"""Bring corrected labels of unlabeled images into the labeled set."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from s4m_pipeline.core.errors import UserError
from s4m_pipeline.data.coco import CocoData
from s4m_pipeline.data.coco_entries import CocoImage
from s4m_pipeline.data.findings import first_names
from s4m_pipeline.data.folder import refuse_outside
from s4m_pipeline.data.labeled import shared_images
from s4m_pipeline.data.splits import Split, checked
from s4m_pipeline.data.unlabeled import UnlabeledImages


def merge(
    labeled: CocoData, unlabeled: UnlabeledImages, corrected: CocoData, held_out: Sequence[CocoData]
) -> tuple[CocoData, Split]:
    """The data set with the corrected images, and its new split into labeled and unlabeled images.

    A corrected image is the unlabeled one with the same name, or one with the same bytes, or the only one
    with the same last part of the name. Images that are copies of it are no longer unlabeled either.

    Args:
        held_out: validation and test data, which must not share images with the labeled ones.

    Returns:
        The labeled data, whose file names are relative to a folder that holds all images; and the split.

    Raises:
        UserError: naming images that are not unlabeled, listed twice, of a different size, or held out;
            classes that the labeled data lack; or if no unlabeled images remain.
    """
    pairs = _matched(corrected, unlabeled)
    folder = unlabeled.source if unlabeled.source.is_dir() else unlabeled.images_root
    root = _common_root(labeled.images_root, folder)
    taken = {image.path for image, _ in shared_images(unlabeled.images, [ours for _, ours in pairs])}
    remaining = [image for image in unlabeled.images if image.path not in taken]
    refuse_outside([*labeled.images, *unlabeled.images], root)
    next_id = 1 + max(image.id for image in (*labeled.images, *unlabeled.images))
    known_ids = {image.id for image in labeled.images}
    added = [
        replace(ours, id=next_id + place if ours.id in known_ids else ours.id)
        for place, (_, ours) in enumerate(pairs)
    ]
    owners = {theirs.id: ours.id for (theirs, _), ours in zip(pairs, added, strict=True)}
    new = _annotations(labeled, corrected, owners)
    images = [_renamed(image, root) for image in (*labeled.images, *added)]
    whole = replace(
        labeled,
        images_root=root,
        images=tuple(sorted(images, key=lambda image: image.id)),
        annotations={**labeled.annotations, **new},
        usable=labeled.usable | {a["id"] for found in new.values() for a in found if not a["iscrowd"]},
    )
    method = {"name": "merge", "corrected": str(corrected.json_path), "sha256": corrected.sha256}
    left = tuple(_renamed(image, root) for image in remaining)
    return whole, checked(whole, Split(method, whole.images, left, root), held_out)


def _matched(corrected: CocoData, unlabeled: UnlabeledImages) -> list[tuple[CocoImage, CocoImage]]:
    """Each corrected image with the unlabeled one that it is."""
    same_bytes = {theirs.id: ours for theirs, ours in shared_images(corrected.images, unlabeled.images)}
    by_name = {image.file_name: image for image in unlabeled.images}
    by_last: dict[str, list[CocoImage]] = defaultdict(list)
    for image in unlabeled.images:
        by_last[PurePosixPath(image.file_name).name].append(image)
    found: dict[int, CocoImage] = {}
    for theirs in corrected.images:
        same_last = by_last[PurePosixPath(theirs.file_name).name]
        only = same_last[0] if len(same_last) == 1 else None
        if ours := by_name.get(theirs.file_name) or same_bytes.get(theirs.id) or only:
            found[theirs.id] = ours
    if unknown := [image.file_name for image in corrected.images if image.id not in found]:
        raise UserError(
            f"{corrected.json_path}: {len(unknown)} images are not among the unlabeled images of "
            f"{unlabeled.source}: {first_names(unknown)}.\nExpected images that `s4m export review` wrote, "
            "and that were not merged before. Remove the other images from the file."
        )
    pairs = [(image, found[image.id]) for image in corrected.images]
    if resized := [a.file_name for a, b in pairs if (a.width, a.height) != (b.width, b.height)]:
        raise UserError(
            f"{corrected.json_path}: {len(resized)} images have a different size than the unlabeled images "
            f"of their names: {first_names(resized)}.\nExpected labels of the original images."
        )
    owners = Counter(ours.file_name for _, ours in pairs)
    if twice := [name for name, count in owners.items() if count > 1]:
        raise UserError(
            f"{corrected.json_path}: {len(twice)} unlabeled images are listed several times: "
            f"{first_names(twice)}.\nKeep one entry of each."
        )
    return pairs


def _common_root(one: Path, other: Path) -> Path:
    """The deepest folder that holds both folders."""
    one, other = one.resolve(), other.resolve()
    return next(folder for folder in (one, *one.parents) if other.is_relative_to(folder))


def _renamed(image: CocoImage, root: Path) -> CocoImage:
    return replace(image, file_name=image.path.relative_to(root).as_posix())


def _annotations(
    labeled: CocoData, corrected: CocoData, owners: Mapping[int, int]
) -> dict[int, list[dict[str, Any]]]:
    """The corrected annotations by our image id, with our categories and new ids; unusable ones are dropped.

    Args:
        owners: our id of each image by its id in `corrected`.
    """
    ours = {category.name: category.id for category in labeled.categories}
    names = {category.id: category.name for category in corrected.categories}
    taken = [entry["id"] for entries in labeled.annotations.values() for entry in entries]
    next_id = 1 + max(taken, default=0)
    new: dict[int, list[dict[str, Any]]] = {}
    unknown = set()
    for theirs, own in owners.items():
        new[own] = []
        for entry in corrected.annotations.get(theirs, []):
            if not entry["iscrowd"] and entry["id"] not in corrected.usable:
                continue
            name = names[entry["category_id"]]
            unknown |= {name} - ours.keys()
            category = {"id": next_id, "image_id": own, "category_id": ours.get(name)}
            new[own].append({**entry, **category})
            next_id += 1
    if unknown:
        raise UserError(
            f"{corrected.json_path}: objects of classes that the labeled data lack: "
            f"{first_names(sorted(unknown))}.\n{labeled.json_path} has: {', '.join(ours)}. Correct the names."
        )
    return new
