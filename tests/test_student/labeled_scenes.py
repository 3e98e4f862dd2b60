"""A cache of pseudo-labels for the tiny data set: what is painted in its images, or less of it."""

from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from s4m_cache.generation import Generation, GenerationSpec
from s4m_cache.generations import begin, publish
from s4m_cache.records import ImageLabels, Instances
from s4m_cache.sharding import ShardSpec
from s4m_cache.writer import ShardWriter
from s4m_pipeline.data.coco import load_coco
from tests.conftest import CLASSES, SIZE_PX, TinyCoco

PIPELINE = [
    {"type": "LoadRGB"},
    {"type": "LoadInstances"},
    {"type": "RandomFlip", "prob": 0.5},
    {"type": "RandomCrop", "crop_size": (40, 40), "recompute_bbox": True, "allow_negative_crop": True},
    {"type": "FilterAnnotations", "min_gt_bbox_wh": (1e-5, 1e-5), "by_mask": True, "keep_empty": False},
    {"type": "PackDetInputs"},
]


def painted_labels(tiny_coco: TinyCoco, image_id: int, count: int) -> ImageLabels:
    """The first `count` rectangles of a training image."""
    data = load_coco(tiny_coco.annotations("train"), tiny_coco.images("train"))
    entries = data.instances(image_id)[:count]
    masks = [coco_mask.decode(entry["segmentation"]) for entry in entries]
    return ImageLabels(
        image_id=image_id,
        height=SIZE_PX,
        width=SIZE_PX,
        instances=Instances.create(
            masks=np.array(masks, np.bool_).reshape(-1, SIZE_PX, SIZE_PX),
            labels=[entry["category_id"] // 10 - 1 for entry in entries],
            scores=[0.9] * len(entries),
        ),
    )


def publish_labels(root: Path, number: int, images: list[ImageLabels], classes: Any = CLASSES) -> Generation:
    """A published generation of these labels."""
    spec = GenerationSpec(
        image_ids=[labels.image_id for labels in images],
        classes=classes,
        category_ids=range(10, 10 + 10 * len(classes), 10),
        num_shards=1,
        fingerprint={"teacher": str(number)},
    )
    generation = begin(root, spec, number)
    with ShardWriter(generation, ShardSpec(1, 1), max_images=len(images)) as writer:
        for labels in images:
            writer.append(labels)
    publish(generation)
    return generation


def pseudo_labeled(tiny_coco: TinyCoco, cache: Path, **changes: Any) -> dict[str, Any]:
    """Config of the training images with the labels of a cache; to be called after `register_all`."""
    from s4m_pipeline.student.pseudo_labels import PseudoLabeledImages

    return {
        "type": PseudoLabeledImages,
        "source": str(tiny_coco.annotations("train")),
        "images": str(tiny_coco.images("train")),
        "cache": str(cache),
        "classes": CLASSES,
        "pipeline": PIPELINE,
        **changes,
    }
