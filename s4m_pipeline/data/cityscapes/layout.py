"""Where Cityscapes keeps its photos and annotations, and which of them belong together."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from s4m_pipeline.data.findings import first_names
from s4m_pipeline.errors import UserError

SPLITS = ("train", "val")
PHOTOS, ANNOTATIONS = "leftImg8bit", "gtFine"
PHOTO_ENDING = "_leftImg8bit.png"
INSTANCE_IDS_ENDING = "_gtFine_instanceIds.png"
LABEL_IDS_ENDING = "_gtFine_labelIds.png"
POLYGONS_ENDING = "_gtFine_polygons.json"

HOW_TO_GET = (
    "Register at cityscapes-dataset.com, fetch the packages gtFine_trainvaltest.zip (annotations) and "
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
    """The `instanceIds` image, or the `polygons` file where there is no such image."""


def photo_name(listed: str) -> str:
    """The photo that a name from a list means: of an annotation file its photo, any other name as it is."""
    return _ANNOTATION_ENDING.sub(PHOTO_ENDING, listed)


def frame_key(name: str) -> str | None:
    """`CITY_000000_000019` of a photo's name with any folders; None where the name is no such photo's."""
    key = name.rpartition("/")[2].removesuffix(PHOTO_ENDING)
    return key if name.endswith(PHOTO_ENDING) and _FRAME.fullmatch(key) else None


def require_layout(root: Path) -> None:
    """Check in no time that the folders of photos and annotations are there.

    Raises:
        UserError: naming those that are not, and where to get them.
    """
    folders = [root / kind / split for kind in (PHOTOS, ANNOTATIONS) for split in SPLITS]
    missing = [str(folder) for folder in folders if not folder.is_dir()]
    if missing:
        raise UserError(f"{root} is not Cityscapes: no folder {', '.join(missing)}.\n{HOW_TO_GET}")


def find_frames(root: Path, split: str) -> list[Frame]:
    """All photos of a split with their annotations, in the order of their names.

    Raises:
        UserError: one message with photos and annotations that have no counterpart, and misplaced files.
    """
    photos = _by_key(root / PHOTOS / split, (PHOTO_ENDING,))
    annotations = _by_key(root / ANNOTATIONS / split, (POLYGONS_ENDING, INSTANCE_IDS_ENDING))
    strangers = [name for name in (*photos, *annotations) if not _is_placed(name)]
    alone = sorted(photos.keys() - annotations.keys())
    unseen = sorted(annotations.keys() - photos.keys())
    faults = [
        f"  - {text} ({len(names)}): {first_names(names)}"
        for text, names in (
            ("names that are not CITY/CITY_000000_000019, with six digits each", strangers),
            (f"photos without {INSTANCE_IDS_ENDING[1:]} or {POLYGONS_ENDING[1:]}", alone),
            (f"annotations without {PHOTO_ENDING[1:]}", unseen),
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
    """Files by `CITY/CITY_000000_000019`; of several endings the last one counts."""
    found = {}
    for ending in endings:
        for path in folder.glob(f"*/[!.]*{ending}"):
            found[f"{path.parent.name}/{path.name.removesuffix(ending)}"] = path
    return found


def _is_placed(key: str) -> bool:
    city, _, name = key.partition("/")
    match = _FRAME.fullmatch(name)
    return match is not None and match["city"] == city
