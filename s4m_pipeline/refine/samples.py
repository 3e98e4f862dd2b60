"""Labels of validation images with both masks measured: what calibrated acceptance is fitted on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s4m_cache.masks import MATCH_IOU, Masks
from s4m_cache.records import ImageLabels, Instances
from s4m_pipeline.evaluation.pseudo_label_quality import same_class_iou

NUM_FEATURES = 6
_DIGITS = 6
_COLUMNS: dict[str, tuple[tuple[int, ...], Any]] = {
    "image": ((), np.int64),
    "label": ((), np.int64),
    "features": ((NUM_FEATURES,), np.float64),
    "iou": ((2,), np.float64),
    "pair": ((2,), np.int64),
    "pair_iou": ((2,), np.float64),
}


@dataclass(frozen=True, eq=False)
class Samples:
    """M labels of validation images and P pairs of a label and an object of its class.

    Labels of an image are in a row, by falling score. IoUs are those of the teacher's mask and of SAM's.
    """

    image: NDArray[np.int64]
    """(M,) id of its image."""
    label: NDArray[np.int64]
    """(M,)."""
    features: NDArray[np.float64]
    """(M, F), see `features_of`."""
    iou: NDArray[np.float64]
    """(M, 2) with the object, of any class, that either mask fits best; 0 without any."""
    pair: NDArray[np.int64]
    """(P, 2) row of the label, and number of the object in its image; where either mask may match."""
    pair_iou: NDArray[np.float64]
    """(P, 2)."""

    @property
    def right(self) -> NDArray[np.bool_]:
        """(M,) whether either mask matches an object of the label's class."""
        return np.isin(np.arange(len(self.image)), self.pair[:, 0])

    @classmethod
    def of(cls, labels: ImageLabels, truth_labels: NDArray[np.integer], truth: Masks) -> "Samples":
        """Measure the labels of one image, which has objects with these labels and masks."""
        found = labels.instances
        assert found.raw_masks is not None  # asked for
        masks = (found.raw_masks, found.refined_masks)
        anything = np.zeros(len(found), np.int64), np.zeros(len(truth), np.int64)
        iou_MT2 = np.stack([same_class_iou(anything[0], kind, anything[1], truth) for kind in masks], axis=2)
        best_M = iou_MT2.max(axis=2).argmax(axis=1) if len(truth) else anything[0]
        iou = iou_MT2[np.arange(len(found)), best_M] if len(truth) else np.zeros((len(found), 2))
        same_class = found.labels[:, None] == truth_labels[None]
        pair = np.argwhere(same_class & (iou_MT2.max(axis=2) > MATCH_IOU))
        return cls(
            image=np.full(len(found), labels.image_id, np.int64),
            label=found.labels.astype(np.int64),
            features=features_of(found).round(_DIGITS),
            iou=iou.round(_DIGITS),
            pair=pair,
            pair_iou=iou_MT2[tuple(pair.T)].round(_DIGITS),
        )

    @classmethod
    def join(cls, parts: Sequence["Samples"]) -> "Samples":
        """All of them, images by rising id."""
        columns: dict[str, NDArray[Any]] = {
            name: np.concatenate([np.zeros((0, *shape), dtype), *(getattr(part, name) for part in parts)])
            for name, (shape, dtype) in _COLUMNS.items()
        }
        starts = np.cumsum([0, *(len(part.image) for part in parts)])
        shifts = [np.full(len(part.pair), start) for part, start in zip(parts, starts, strict=False)]
        columns["pair"][:, 0] += np.concatenate([np.zeros(0, np.int64), *shifts])
        order = np.argsort(columns["image"], kind="stable")
        columns["pair"][:, 0] = np.argsort(order)[columns["pair"][:, 0]]
        return cls(
            **{name: columns[name][order] for name in ("image", "label", "features", "iou")},
            pair=columns["pair"],
            pair_iou=columns["pair_iou"],
        )

    def as_record(self) -> dict[str, Any]:
        """As JSON."""
        return {name: getattr(self, name).tolist() for name in _COLUMNS}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Samples":
        """From what `as_record` gave."""
        return cls(
            **{
                name: np.array(record[name], dtype).reshape(-1, *shape)
                for name, (shape, dtype) in _COLUMNS.items()
            }
        )

    def tallies(
        self,
        use_raw: NDArray[np.bool_],
        ignored: NDArray[np.bool_],
        image_ids: NDArray[np.int64],
        num_classes: int,
    ) -> NDArray[np.int64]:
        """(I, C, 3) labels, true positives, and the sum of their IoUs in millionths, if these masks are used.

        Matched as `ClassTallies.add` does: by falling score, an object once.

        Args:
            use_raw: (M,) where the teacher's mask is used, else SAM's.
            ignored: (M,) labels that do not count.
            image_ids: (I,), rising.
        """
        counts = np.zeros((len(image_ids), num_classes, 3), np.int64)
        of_image = np.searchsorted(image_ids, self.image)
        np.add.at(counts[..., 0], (of_image[~ignored], self.label[~ignored]), 1)
        iou = np.where(use_raw[self.pair[:, 0]], self.pair_iou[:, 0], self.pair_iou[:, 1])
        taken: set[tuple[int, int]] = set()
        for row in np.unique(self.pair[~ignored[self.pair[:, 0]], 0]).tolist():
            image = int(self.image[row])
            of_row = np.flatnonzero(self.pair[:, 0] == row)
            free = [place for place in of_row if (image, int(self.pair[place, 1])) not in taken]
            best = max(free, key=lambda place: iou[place], default=None)
            if best is not None and iou[best] > MATCH_IOU:
                taken.add((image, int(self.pair[best, 1])))
                counts[of_image[row], self.label[row], 1:] += [1, round(1e6 * iou[best])]
        return counts


def features_of(instances: Instances) -> NDArray[np.float64]:
    """(M, 6) what is known of labels without truth: SAM's estimate of its IoU, IoU of both masks, class
    confidence, log ratio of the areas of SAM's and the teacher's mask, its magnitude, log of the latter."""
    assert instances.raw_masks is not None  # asked for
    raw = np.log1p(instances.raw_masks.areas)
    ratio = np.log1p(instances.refined_masks.areas) - raw
    columns = [instances.pred_ious, instances.raw_ious, instances.scores, ratio, np.abs(ratio), raw]
    # NaN: SAM was not asked, or neither mask has pixels
    return np.nan_to_num(np.stack(columns, axis=1).astype(np.float64))
