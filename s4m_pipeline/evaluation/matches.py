"""Which predictions match an object, image by image: what the mask AP of any resampled data set needs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s4m_cache.atomic import atomic_path
from s4m_pipeline.data.coco import CocoData
from s4m_pipeline.evaluation.mask_ap import coco_evaluation

_RECALLS = np.linspace(0.0, 1.0, 101)  # COCO's recall thresholds, bit by bit
_BLOCK = 4_000_000
"""Weights that are looked at together: B draws x D predictions of a class."""


@dataclass(frozen=True)
class Matches:
    """Predictions of I images and K classes, matched to the objects as COCO does at T IoUs (0.50 to 0.95).

    Predictions are in the order of classes, then of images, then of falling scores.
    """

    image_ids: NDArray[np.int64]
    """(I,) COCO ids, rising."""
    num_objects: NDArray[np.int64]
    """(I, K) objects that are to be found; crowd regions are not."""
    image: NDArray[np.int64]
    """(N,) place of each prediction's image in `image_ids`."""
    label: NDArray[np.int64]
    """(N,)."""
    score: NDArray[np.float64]
    """(N,)."""
    matched: NDArray[np.bool_]
    """(N, T)."""
    ignored: NDArray[np.bool_]
    """(N, T) those matched to a crowd region: neither right nor wrong."""

    @classmethod
    def of(cls, truth: CocoData, predictions: Sequence[dict[str, Any]]) -> "Matches":
        """Match COCO results (compressed RLE) with the annotated images; 100 predictions per image count."""
        num_images, num_classes = len(truth.images), len(truth.categories)
        label_of = {category.id: category.label for category in truth.categories}
        place = {image.id: index for index, image in enumerate(truth.images)}
        num_objects = np.zeros((num_images, num_classes), np.int64)
        for image in truth.images:
            for annotation in truth.annotations.get(image.id, []):
                if not annotation["iscrowd"]:
                    num_objects[place[image.id], label_of[annotation["category_id"]]] += 1
        found = coco_evaluation(truth, predictions, "pycocotools", ["all"]).evalImgs if predictions else []
        found = [image for image in found if image is not None]
        counts = [len(image["dtScores"]) for image in found]

        def repeated(values: list[int]) -> NDArray[np.int64]:
            return np.repeat(np.array(values, np.int64), counts)

        def joined(name: str) -> NDArray[np.bool_]:
            empty = np.zeros((0, 10), np.bool_)
            return np.concatenate([empty, *(image[name].T.astype(np.bool_) for image in found)])

        return cls(
            image_ids=np.array([image.id for image in truth.images], np.int64),
            num_objects=num_objects,
            image=repeated([place[image["image_id"]] for image in found]),
            label=repeated([label_of[image["category_id"]] for image in found]),
            score=np.concatenate([np.zeros(0), *(image["dtScores"] for image in found)]),
            matched=joined("dtMatches"),
            ignored=joined("dtIgnore"),
        )

    def save(self, path: Path) -> None:
        """Write an .npz file, in a folder that is made if need be."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **vars(self))

    @classmethod
    def load(cls, path: Path) -> "Matches":
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(**arrays)

    def average_precision(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Mask AP in percent, over IoU 0.50 to 0.95, of data sets in which images count several times.

        Args:
            weights: (B, I) how often each image counts.

        Returns:
            (B,); NaN where there is no object. As COCOeval computes it for images that are really repeated,
            except for the order of predictions with equal scores.
        """
        by_class = [self._class_precision(label, weights) for label in range(self.num_objects.shape[1])]
        precision_KB = np.array(by_class)
        defined = ~np.isnan(precision_KB)
        with np.errstate(invalid="ignore"):
            return 100 * np.where(defined, precision_KB, 0.0).sum(axis=0) / defined.sum(axis=0)

    def precision_curve(self, iou: float) -> NDArray[np.float64]:
        """(101,) precision in percent at recall 0, 0.01, ... 1, mean over the classes with objects.

        Args:
            iou: of COCO's ten, from which on a prediction matches.
        """
        (threshold,) = np.flatnonzero(np.isclose(np.linspace(0.5, 0.95, 10), iou))
        num_objects_K = self.num_objects.sum(axis=0)
        curves = []
        for label in np.flatnonzero(num_objects_K):
            counted = np.flatnonzero((self.label == label) & ~self.ignored[:, threshold])
            counted = counted[np.argsort(-self.score[counted], kind="stable")]
            true_D = np.cumsum(self.matched[counted, threshold])
            precision_D = true_D / np.arange(1, len(counted) + 1)
            best_D = np.append(np.maximum.accumulate(precision_D[::-1])[::-1], 0.0)
            curves.append(best_D[np.searchsorted(true_D / num_objects_K[label], _RECALLS)])
        return 100 * np.mean(curves, axis=0) if curves else np.zeros(len(_RECALLS))

    def _class_precision(self, label: int, weights_BI: NDArray[np.float64]) -> NDArray[np.float64]:
        """(B,) mean precision of a class over IoUs and recalls; NaN in draws without an object of it."""
        chosen = np.flatnonzero(self.label == label)
        chosen = chosen[np.argsort(-self.score[chosen], kind="stable")]
        num_objects_B = weights_BI @ self.num_objects[:, label]
        precision_B = np.zeros(len(weights_BI))
        rows = max(1, _BLOCK // max(1, len(chosen)))
        for start in range(0, len(weights_BI), rows) if len(chosen) else ():
            block = slice(start, start + rows)
            weights_BD = weights_BI[block][:, self.image[chosen]]
            precision_B[block] = _mean_precision(
                weights_BD, self.matched[chosen], self.ignored[chosen], num_objects_B[block]
            )
        return np.where(num_objects_B > 0, precision_B, np.nan)


def _mean_precision(
    weights_BD: NDArray[np.float64],
    matched_DT: NDArray[np.bool_],
    ignored_DT: NDArray[np.bool_],
    num_objects_B: NDArray[np.float64],
) -> NDArray[np.float64]:
    """(B,) precision over T IoUs and 101 recalls, of predictions by falling score.

    Precision and recall are needed at true positives only: recall stays the same between them, and COCO takes
    the best precision from a recall on. All that comes before is one cumulative sum, shared by all IoUs, less
    what is ignored.
    """
    before_BD = weights_BD.cumsum(axis=1)
    precision_B = np.zeros(len(weights_BD))
    for matched_D, ignored_D in zip(matched_DT.T, ignored_DT.T, strict=True):
        true_P = np.flatnonzero(matched_D & ~ignored_D)
        ignored_Q = np.flatnonzero(ignored_D)
        true_BP = weights_BD[:, true_P].cumsum(axis=1)
        counted_BP = before_BD[:, true_P]
        if len(ignored_Q):
            ignored_BQ = np.pad(weights_BD[:, ignored_Q].cumsum(axis=1), ((0, 0), (1, 0)))
            counted_BP = counted_BP - ignored_BQ[:, np.searchsorted(ignored_Q, true_P)]
        precision_BP = true_BP / (counted_BP + np.spacing(1))
        best_BP = np.maximum.accumulate(precision_BP[:, ::-1], axis=1)[:, ::-1]
        recall_BP = true_BP / np.maximum(num_objects_B, 1)[:, None]
        reached_BP = np.searchsorted(_RECALLS, recall_BP, side="right")  # recall thresholds reached so far
        precision_B += (best_BP * np.diff(reached_BP, axis=1, prepend=0)).sum(axis=1)
    return precision_B / (len(_RECALLS) * matched_DT.shape[1])
