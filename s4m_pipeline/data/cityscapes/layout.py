"""Folders and file names of Cityscapes: find photos and their annotations."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from s4m_pipeline.core.errors import UserError
from s4m_pipeline.data.findings import first_names

SPLITS = ("train", "val")
PHOTOS, ANNOTATIONS = "leftImg8bit", "gtFine"
PHOTO_ENDING = "_leftImg8bit.png"
INSTANCE_IDS_ENDING = "_gtFine_instanceIds.png"
LABEL_IDS_ENDING = "_gtFine_labelIds.png"
POLYGONS_ENDING = "_gtFine_polygons.json"

HOW_TO_GET = (
    "Register at cityscapes-dataset.com, download gtFine_trainvaltest.zip (annotations) and "
    "leftImg8bit_trainvaltest.zip (photos), and unpack both in the same folder."
)

_FRAME = re.compile(r"(?P<city>[^_/]+)_\d{6}_\d{6}")
_ANNOTATION_ENDING = re.compile(r"_gtFine_\w+\.(png|json)$")


@dataclass(frozen=True)
class Frame:
    """One annotated photo."""

    photo_name: str
    """Relative to the split's folder of photos: `CITY/CITY_000000_000019_leftImg8bit.png`."""
    photo: Path
    annotation: Path
    """The `instanceIds` image, or the `polygons` file if there is no such image."""


def photo_name(listed: str) -> str:
    """The photo for a name from a list: an annotation file is mapped to its photo, others are unchanged."""
    return _ANNOTATION_ENDING.sub(PHOTO_ENDING, listed)


def frame_key(name: str) -> str | None:
    """`CITY_000000_000019` for the name of a photo, with or without folders; None for other names."""
    key = name.rpartition("/")[2].removesuffix(PHOTO_ENDING)
    return key if name.endswith(PHOTO_ENDING) and _FRAME.fullmatch(key) else None


def require_layout(root: Path) -> None:
    """Check that the folders of photos and annotations exist.

    Raises:
        UserError: naming the missing folders and where to get them.
    """
    folders = [root / kind / split for kind in (PHOTOS, ANNOTATIONS) for split in SPLITS]
    missing = [str(folder) for folder in folders if not folder.is_dir()]
    if missing:
        raise UserError(f"{root} is not Cityscapes: missing folders {', '.join(missing)}.\n{HOW_TO_GET}")


def find_frames(root: Path, split: str) -> list[Frame]:
    """All photos of a split with their annotations, in the order of their names.

    Raises:
        UserError: one message naming photos and annotations without a counterpart, and misplaced files.
    """
    photos = _by_key(root / PHOTOS / split, (PHOTO_ENDING,))
    annotations = _by_key(root / ANNOTATIONS / split, (POLYGONS_ENDING, INSTANCE_IDS_ENDING))
    misplaced = [name for name in (*photos, *annotations) if not _is_placed(name)]
    without_annotation = sorted(photos.keys() - annotations.keys())
    without_photo = sorted(annotations.keys() - photos.keys())
    faults = [
        f"  - {text} ({len(names)}): {first_names(names)}"
        for text, names in (
            ("names that are not CITY/CITY_000000_000019, with six digits each", misplaced),
            (f"photos without {INSTANCE_IDS_ENDING[1:]} or {POLYGONS_ENDING[1:]}", without_annotation),
            (f"annotations without {PHOTO_ENDING[1:]}", without_photo),
        )
        if names
    ]
    if not photos:
        faults.append(f"  - no photos below {root / PHOTOS / split}")
    if faults:
        summary = f"{root}, {split}: {len(photos)} photos, {len(annotations)} annotations:"
        raise UserError("\n".join([summary, *faults, HOW_TO_GET]))
    return [Frame(key + PHOTO_ENDING, photos[key], annotations[key]) for key in sorted(photos)]


def _by_key(folder: Path, endings: Iterable[str]) -> dict[str, Path]:
    """Files by `CITY/CITY_000000_000019`; the last of several endings wins."""
    found = {}
    for ending in endings:
        for path in folder.glob(f"*/[!.]*{ending}"):
            found[f"{path.parent.name}/{path.name.removesuffix(ending)}"] = path
    return found


def _is_placed(key: str) -> bool:
    city, _, name = key.partition("/")
    match = _FRAME.fullmatch(name)
    return match is not None and match["city"] == city
