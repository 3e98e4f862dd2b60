"""Convert the fine annotations of Cityscapes to COCO JSON; images are not copied."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from s4m_cache.atomic import write_text
from s4m_cache.limits import MAX_PIXELS
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.core.parallel import parallel_map
from s4m_pipeline.core.progress import track
from s4m_pipeline.data.cityscapes.labels import (
    INSTANCE_CLASSES,
    INSTANCES_PER_LABEL,
    draw_polygons,
    is_pixel_value,
    label_of,
)
from s4m_pipeline.data.cityscapes.layout import (
    INSTANCE_IDS_ENDING,
    SPLITS,
    Frame,
    find_frames,
    require_layout,
)
from s4m_pipeline.data.findings import first_names
from s4m_pipeline.data.images import read_header
from s4m_pipeline.data.writing import mask_annotation


@dataclass(frozen=True)
class Converted:
    """Result of converting one split."""

    json_path: Path
    images: int
    instances: int
    groups: int
    """Crowd regions: one per image and class, for groups of objects that were annotated together."""
    from_polygons: int
    """Images whose annotation was drawn from polygons, because they have no `instanceIds` image."""


@dataclass(frozen=True)
class _Annotated:
    """Size in pixels and annotations (not yet numbered) of a frame, or the reason why it cannot be used."""

    width: int = 0
    height: int = 0
    annotations: tuple[dict[str, Any], ...] = ()
    fault: str | None = None


def convert(
    root: Path,
    out: Path,
    *,
    jobs: int = 1,
    max_pixels: int = MAX_PIXELS,
    force: bool = False,
) -> list[Converted]:
    """Write `out/train.json` and `out/val.json`, after all annotations were read.

    File names are relative to `root/leftImg8bit/SPLIT`. Images are numbered from 1 in the order of names,
    annotations in the order of images and pixel values, categories by the benchmark's label ids; so the same
    files give the same bytes. Groups become crowd regions; all other labels (also caravans and trailers,
    which the benchmark does not evaluate) are left out.

    Args:
        force: replace existing files.

    Raises:
        UserError: missing folders; photos and annotations that do not match; unreadable annotations (all of
            them named); existing files; or `out` cannot be written.
    """
    paths = {split: out / f"{split}.json" for split in SPLITS}
    if existing := [str(path) for path in paths.values() if path.exists() and not force]:
        raise UserError(f"{' and '.join(existing)} exist already. Use --force to write them again.")
    require_layout(root)
    frames = {split: find_frames(root, split) for split in SPLITS}
    documents = {split: _document(split, found, jobs, max_pixels) for split, found in frames.items()}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for split, document in documents.items():
            write_text(paths[split], json.dumps(document) + "\n")
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror}). Use another folder.") from error
    return [_converted(paths[split], frames[split], documents[split]) for split in SPLITS]


def _document(split: str, frames: list[Frame], jobs: int, max_pixels: int) -> dict[str, Any]:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    faults: list[str] = []
    annotated = parallel_map(partial(_annotated, max_pixels=max_pixels), frames, jobs)
    for frame, found in track(annotated, len(frames), f"Converting {split}"):
        if found.fault:
            faults.append(f"{frame.annotation.name} ({found.fault})")
        image_id = len(images) + 1
        images.append(
            {"id": image_id, "file_name": frame.photo_name, "width": found.width, "height": found.height}
        )
        for entry in found.annotations:
            annotations.append({**entry, "id": len(annotations) + 1, "image_id": image_id})
    if faults:
        raise UserError(
            f"{split}: {len(faults)} of {len(frames)} annotations cannot be used: {first_names(faults)}\n"
            "Unpack or download the packages again."
        )
    return {
        "info": {"description": f"Cityscapes, fine annotations, {split}"},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": label_id, "name": name} for name, label_id in INSTANCE_CLASSES.items()],
    }


def _converted(json_path: Path, frames: list[Frame], document: dict[str, Any]) -> Converted:
    groups = sum(entry["iscrowd"] for entry in document["annotations"])
    return Converted(
        json_path=json_path,
        images=len(frames),
        instances=len(document["annotations"]) - groups,
        groups=groups,
        from_polygons=sum(not frame.annotation.name.endswith(INSTANCE_IDS_ENDING) for frame in frames),
    )


def _annotated(frame: Frame, max_pixels: int) -> _Annotated:
    try:
        header = read_header(frame.photo, max_pixels)
        if frame.annotation.name.endswith(INSTANCE_IDS_ENDING):
            values = _read_instance_ids(frame.annotation, header.width, header.height)
        else:
            values = draw_polygons(_read_polygons(frame.annotation), header.width, header.height)
    except UserError as error:
        return _Annotated(fault=str(error))
    return _Annotated(header.width, header.height, tuple(annotations_of(values)))


def annotations_of(values: NDArray[np.integer]) -> Iterator[dict[str, Any]]:
    """COCO annotations (with id 0) of the (H, W) pixel values of one image, by rising value."""
    columns = np.asfortranarray(values)
    for value in np.flatnonzero(np.bincount(values.ravel())).tolist():
        label_id = label_of(value)
        if label_id in INSTANCE_CLASSES.values():
            crowd = value < INSTANCES_PER_LABEL
            yield mask_annotation(columns == value, 0, 0, label_id, crowd=crowd)


def _read_instance_ids(path: Path, width: int, height: int) -> NDArray[np.integer]:
    """Pixel values (height, width) of an `instanceIds` image."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            if image.size != (width, height):
                size = f"{image.width} x {image.height}"
                raise UserError(f"{size} pixels, but the photo has {width} x {height}")
            if not image.mode.startswith("I"):
                raise UserError("not a 16-bit PNG")
            values = np.asarray(image)
    except UserError:
        raise
    except Exception as error:  # decoders raise many kinds of exceptions on damaged bytes
        raise UserError(f"cannot be decoded: {error}") from error
    invalid = [v for v in np.flatnonzero(np.bincount(values.ravel())).tolist() if not is_pixel_value(v)]
    if invalid:
        raise UserError(f"pixel value {invalid[0]} is not a Cityscapes id; expected label ids, not train ids")
    return values


def _read_polygons(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"not readable as JSON: {error}") from error
    if not isinstance(document, dict):
        raise UserError("not a JSON object")
    return document
