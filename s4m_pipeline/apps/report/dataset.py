"""Sizes and counts of the data set: images, objects, classes."""

from pathlib import Path
from typing import Any

import numpy as np

from s4m_pipeline.config.groups import DataOptions
from s4m_pipeline.data.coco import CocoData, load_coco
from s4m_pipeline.data.unlabeled import unlabeled_of


def describe_data(data: DataOptions) -> dict[str, Any]:
    """Figures of each part of an experiment's data, as plain values; the unlabeled part has no objects.

    Raises:
        UserError: if a part is missing or faulty.
    """
    sources: dict[str, tuple[Path, Path]] = {
        "labeled": (data.path(data.labeled), data.path(data.train_images)),
        "validation": data.split("val"),
    }
    if data.test is not None:
        sources["test"] = data.split("test")
    found = {name: load_coco(*source) for name, source in sources.items()}
    parts = {name: _sizes(part.images) | _objects(part) for name, part in found.items()}
    if data.unlabeled is not None:
        parts["unlabeled"] = _sizes(unlabeled_of(data).images)
    return {"parts": parts, "classes": found["labeled"].class_names}


def _sizes(images: Any) -> dict[str, Any]:
    """Number of images, and their smallest, median and largest side in pixels."""
    sides = np.array([(image.width, image.height) for image in images]).reshape(-1, 2)
    known = sides[(sides > 0).all(axis=1)]
    median = np.median(known, axis=0).astype(int).tolist() if len(known) else None
    return {"images": len(sides), "median size": median}


def _objects(part: CocoData) -> dict[str, Any]:
    per_image = [part.instances(image.id) for image in part.images]
    areas = np.array([a["area"] for found in per_image for a in found], float)
    return {
        "objects": len(areas),
        "most": max(map(len, per_image), default=0),
        "empty": sum(not found for found in per_image),
        "sizes": np.bincount(np.digitize(areas, [32**2, 96**2]), minlength=3).tolist(),
        "per class": part.class_counts(part.images),
    }
