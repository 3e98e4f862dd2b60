"""A split on disk: `labeled.json`, `unlabeled.json`, and `split.json`, which is written last."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from s4m_cache.atomic import write_text
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.data.coco import CocoData
from s4m_pipeline.data.coco_entries import CocoImage
from s4m_pipeline.data.splits import Split

LABELED, UNLABELED, RECORD = "labeled.json", "unlabeled.json", "split.json"


def refuse_overwrite(out: Path, inputs: Sequence[Path], force: bool) -> None:
    """Check, before any work, that `write_split` to `out` will not overwrite anything.

    Raises:
        UserError: `out` holds a finished split and `force` is off, or one of `inputs` would be overwritten.
    """
    targets = {(out / name).resolve() for name in (LABELED, UNLABELED, RECORD)}
    for path in inputs:
        if path.resolve() in targets:
            raise UserError(
                f"--out {out}: {path} is an input of this split and would be overwritten. Use a "
                "different folder."
            )
    if (out / RECORD).exists() and not force:
        raise UserError(f"{out / RECORD} exists: this split is finished. Use --force to replace it.")


def write_split(data: CocoData, split: Split, validation: Sequence[CocoData], out: Path) -> dict[str, Any]:
    """Write the three files to the folder `out` and return the content of `split.json`.

    The two data sets are COCO JSON with categories and images in id order. The unlabeled one has no
    annotations, so training cannot see them. The bytes do not depend on the order of the source.

    Raises:
        UserError: the folder cannot be written.
    """
    record = _record(data, split, validation)
    annotations = [a for image in split.labeled for a in data.annotations.get(image.id, [])]
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / RECORD).unlink(missing_ok=True)  # its presence marks a finished split
        write_text(out / LABELED, coco_json(data, split.labeled, annotations))
        write_text(out / UNLABELED, coco_json(data, split.unlabeled, []))
        write_text(out / RECORD, json.dumps(record, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror}).") from error
    return record


def coco_json(data: CocoData, images: Sequence[CocoImage], annotations: list[dict[str, Any]]) -> str:
    """COCO JSON of some images and annotations with all categories of `data`."""
    document = {
        "info": {"description": f"Part of {data.json_path.name}"},
        "images": [
            {"id": image.id, "file_name": image.file_name, "width": image.width, "height": image.height}
            for image in images
        ],
        "annotations": annotations,
        "categories": [{"id": category.id, "name": category.name} for category in data.categories],
    }
    return json.dumps(document) + "\n"


def _record(data: CocoData, split: Split, validation: Sequence[CocoData]) -> dict[str, Any]:
    per_class = data.class_counts(split.labeled)
    return {
        "method": split.method,
        "source": {"json": str(data.json_path), "sha256": data.sha256},
        "validation": [
            {"json": str(other.json_path), "sha256": other.sha256, "images": len(other.images)}
            for other in validation
        ],
        "labeled": {
            "json": LABELED,
            "images_root": str(data.images_root),
            "images": len(split.labeled),
            "instances": sum(per_class.values()),
            "instances_per_class": per_class,
        },
        "unlabeled": {
            "json": UNLABELED,
            "images_root": str(split.unlabeled_root),
            "images": len(split.unlabeled),
        },
        "labeled_file_names": sorted(image.file_name for image in split.labeled),
    }
