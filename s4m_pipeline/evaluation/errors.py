"""Which predictions are wrong, and which objects are missed: for the report, not for AP."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from s4m_cache.masks import MATCH_IOU
from s4m_pipeline.data.coco import CocoData
from s4m_pipeline.data.coco_entries import CocoImage
from s4m_pipeline.evaluation.ground_truth import run_lengths

MIN_SCORE = 0.5
"""Predictions below this score are not looked at."""
NOTHING, DUPLICATE, CROWD = -1, -2, -3
_UNMATCHED = {NOTHING: "false positive", DUPLICATE: "duplicate", CROWD: "crowd"}


@dataclass(frozen=True)
class ImageErrors:
    """N predictions and M objects of an image, and which belong together."""

    image: CocoImage
    predictions: Sequence[dict[str, Any]]
    """COCO results, by falling score."""
    objects: Sequence[dict[str, Any]]
    """COCO annotations, without crowd regions."""
    partner: NDArray[np.int64]
    """(N,) place of the object that a prediction is of, whatever its class; or NOTHING, DUPLICATE,
    CROWD."""

    @property
    def missed(self) -> NDArray[np.int64]:
        """Places of the objects that no prediction is of."""
        return np.setdiff1d(np.arange(len(self.objects)), self.partner)

    def kind(self, place: int) -> str:
        """Of a prediction: `right`, `wrong class`, `false positive`, `duplicate`, that is a second one of an
        object, or `crowd`, which is neither right nor wrong."""
        partner = int(self.partner[place])
        if partner < 0:
            return _UNMATCHED[partner]
        same = self.predictions[place]["category_id"] == self.objects[partner]["category_id"]
        return "right" if same else "wrong class"

    @property
    def num_errors(self) -> int:
        """Objects missed, wrong classes, false positives and duplicates."""
        kinds = [self.kind(place) for place in range(len(self.predictions))]
        return len(self.missed) + sum(kind not in ("right", "crowd") for kind in kinds)


def find_errors(truth: CocoData, results: Iterable[Mapping[str, Any]]) -> list[ImageErrors]:
    """Match the predictions of each image with its objects, whatever their classes.

    A pair has an IoU above 0.5; pairs are taken by falling IoU, each prediction and each object once. Other
    predictions of which more than half is in a crowd region are neither right nor wrong.

    Args:
        results: COCO results (compressed RLE); those with a score below `MIN_SCORE` are left out.
    """
    by_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for result in sorted(results, key=lambda result: -result["score"]):
        if result["score"] >= MIN_SCORE:
            by_image[result["image_id"]].append(dict(result))
    return [_of_image(truth, image, by_image[image.id]) for image in truth.images]


def _of_image(truth: CocoData, image: CocoImage, found: Sequence[dict[str, Any]]) -> ImageErrors:
    objects = truth.instances(image.id)
    crowds = [a for a in truth.annotations.get(image.id, []) if a["iscrowd"]]
    partner = np.full(len(found), NOTHING)
    if found and (objects or crowds):
        iou_NM = coco_mask.iou(
            [result["segmentation"] for result in found],
            [run_lengths(a["segmentation"], image.height, image.width) for a in (*objects, *crowds)],
            [int(a["iscrowd"]) for a in (*objects, *crowds)],
        )
        of_objects, of_crowds = iou_NM[:, : len(objects)], iou_NM[:, len(objects) :]
        for place, target in np.argwhere(of_objects > MATCH_IOU)[
            np.argsort(-of_objects[of_objects > MATCH_IOU], kind="stable")
        ]:
            if partner[place] == NOTHING and target not in partner:
                partner[place] = target
        partner[(partner == NOTHING) & (of_objects > MATCH_IOU).any(axis=1)] = DUPLICATE
        partner[(partner == NOTHING) & (of_crowds > MATCH_IOU).any(axis=1)] = CROWD
    return ImageErrors(image, found, objects, partner)


def confusion(truth: CocoData, errors: Iterable[ImageErrors]) -> NDArray[np.int64]:
    """(K + 1, K + 1) counts: rows are true classes, then background; columns predicted ones, then missed.

    Duplicates are in the row of the background.
    """
    labels = {category.id: category.label for category in truth.categories}
    nothing = len(labels)
    counts = np.zeros((nothing + 1, nothing + 1), np.int64)
    for found in errors:
        for prediction, partner in zip(found.predictions, found.partner.tolist(), strict=True):
            if partner != CROWD:
                true = nothing if partner < 0 else labels[found.objects[partner]["category_id"]]
                counts[true, labels[prediction["category_id"]]] += 1
        for place in found.missed.tolist():
            counts[labels[found.objects[place]["category_id"]], nothing] += 1
    return counts
