"""The pseudo-labels of an image in memory: numpy arrays, masks still packed."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from s4m_cache.errors import CacheError
from s4m_cache.masks import Box, Masks, iou, offsets
from s4m_cache.schema import BITS, COLUMNS, IGNORED


@dataclass(frozen=True, eq=False, kw_only=True)
class Instances:
    """M pseudo-labeled instances of one image, in the order given.

    Attributes:
        refined_masks: the masks after refinement; the teacher's where SAM was not used.
        raw_masks: the teacher's masks before refinement; None if neither requested when reading nor needed,
            because they are used or the instance is ignored.
        labels: int16 [M], contiguous class index.
        scores: float32 [M], the teacher's class confidence, 0..1.
        pred_ious: float32 [M], estimated IoU of the refined mask: SAM's, or where SAM was not used the mean
            probability of the teacher's mask inside it; NaN where unknown.
        raw_ious: float32 [M], IoU of the refined and the teacher's mask; NaN where both are empty.
        use_raw: bool [M], where the teacher's mask is used, because it is more likely to be right.
        ignored: bool [M], where neither mask is likely to be right: what both show is neither an object nor
            background.
    """

    refined_masks: Masks
    raw_masks: Masks | None
    labels: NDArray[np.int16]
    scores: NDArray[np.float32]
    pred_ious: NDArray[np.float32]
    raw_ious: NDArray[np.float32]
    use_raw: NDArray[np.bool_]
    ignored: NDArray[np.bool_]

    @cached_property
    def masks(self) -> Masks:
        """The masks that are used, which the student learns from; of ignored instances the refined ones."""
        if not self.use_raw.any():
            return self.refined_masks
        assert self.raw_masks is not None  # read where one is used
        return Masks.where(self.use_raw, self.raw_masks, self.refined_masks)

    @classmethod
    def create(
        cls,
        *,
        masks: Masks | NDArray[np.bool_],
        labels: ArrayLike,
        scores: ArrayLike,
        raw_masks: Masks | NDArray[np.bool_] | None = None,
        pred_ious: ArrayLike | None = None,
        use_raw: ArrayLike | None = None,
        ignored: ArrayLike | None = None,
    ) -> "Instances":
        """Build from packed masks or dense bool [M, H, W], those after refinement.

        `raw_masks` defaults to `masks` (no refinement), `pred_ious` to NaN, `use_raw` and `ignored` to False.

        Raises:
            CacheError: if the lengths differ, a label does not fit int16 or a score is not finite.
        """
        refined = masks if isinstance(masks, Masks) else Masks.from_dense(masks)
        count = len(refined)
        if raw_masks is None:
            raw_masks = refined
        raw = raw_masks if isinstance(raw_masks, Masks) else Masks.from_dense(raw_masks)
        label = np.asarray(labels)
        score = np.asarray(scores, np.float32)
        quality = (
            np.full(count, np.nan, np.float32) if pred_ious is None else np.asarray(pred_ious, np.float32)
        )
        used, left = (
            np.zeros(count, np.bool_) if flags is None else np.asarray(flags, np.bool_)
            for flags in (use_raw, ignored)
        )
        lengths = {"masks": count, "raw_masks": len(raw), "labels": label.size, "scores": score.size}
        lengths |= {"pred_ious": quality.size, "use_raw": used.size, "ignored": left.size}
        if len(set(lengths.values())) > 1:
            raise CacheError(f"one entry per instance expected, got {lengths}")
        if count and (label.min() < 0 or label.max() > np.iinfo(np.int16).max):
            raise CacheError(f"labels must be class indices 0..32767, got {label.min()}..{label.max()}")
        if not np.isfinite(score).all():
            raise CacheError("scores must be finite, got NaN or infinity: the teacher's output is broken")
        raw_ious = np.array([iou(refined, i, raw, i) for i in range(count)], np.float32)
        return cls(
            refined_masks=refined,
            raw_masks=raw,
            labels=label.astype(np.int16).reshape(count),
            scores=score.reshape(count),
            pred_ious=quality.reshape(count),
            raw_ious=raw_ious,
            use_raw=(used & ~left).reshape(count),
            ignored=left.reshape(count),
        )

    def __len__(self) -> int:
        return len(self.refined_masks)

    @property
    def kept(self) -> "Instances":
        """Those that are not ignored."""
        return self.select(~self.ignored) if self.ignored.any() else self

    def select(self, index: NDArray[np.int_] | NDArray[np.bool_]) -> "Instances":
        """The instances at the given positions, or where a bool [M] array is true."""
        return Instances(
            refined_masks=self.refined_masks.select(index),
            raw_masks=None if self.raw_masks is None else self.raw_masks.select(index),
            labels=self.labels[index],
            scores=self.scores[index],
            pred_ious=self.pred_ious[index],
            raw_ious=self.raw_ious[index],
            use_raw=self.use_raw[index],
            ignored=self.ignored[index],
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageLabels:
    """The pseudo-labels of one image of `height` x `width` pixels; there may be no instances."""

    image_id: int
    height: int
    width: int
    instances: Instances

    def dense(self, window: Box | None = None) -> NDArray[np.bool_]:
        """The used masks in `window` (y0, x0, y1, x1), by default the whole image, as bool [M, h, w]."""
        return self.instances.masks.dense(window or (0, 0, self.height, self.width))


def check(labels: ImageLabels, num_classes: int) -> None:
    """Refuse labels that do not fit their image or the class list.

    Raises:
        CacheError: naming the image and the fault.
    """
    instances = labels.instances
    where = f"image {labels.image_id} ({labels.height}x{labels.width})"
    if labels.height <= 0 or labels.width <= 0:
        raise CacheError(f"{where}: height and width must be positive")
    if instances.raw_masks is None:
        raise CacheError(f"{where}: the teacher's masks are missing; read with raw=True to write again")
    if len(instances) and instances.labels.max() >= num_classes:
        raise CacheError(f"{where}: label {instances.labels.max()}, expected 0..{num_classes - 1}")
    _check_boxes(where, instances.refined_masks.boxes, labels)
    _check_boxes(where, instances.raw_masks.boxes, labels)


def _check_boxes(where: str, boxes: NDArray[np.int32], labels: ImageLabels) -> None:
    low, high = boxes[:, :2], boxes[:, 2:]
    size = np.array([labels.height, labels.width])
    outside = np.flatnonzero((low < 0).any(1) | (low > high).any(1) | (high > size).any(1))
    if outside.size:
        raise CacheError(
            f"{where}: the box {boxes[outside[0]].tolist()} of instance {outside[0]} is not inside the image"
        )


def pack_columns(images: Sequence[ImageLabels]) -> dict[str, NDArray[Any]]:
    """The arrays of one part (see `schema`) for these images, in this order."""
    instances = [image.instances for image in images]
    raw = [entry.raw_masks for entry in instances if entry.raw_masks is not None]
    rows: dict[str, list[NDArray[Any]]] = {
        "bbox": [entry.refined_masks.boxes for entry in instances],
        "raw_bbox": [masks.boxes for masks in raw],
        "label": [entry.labels for entry in instances],
        "score": [entry.scores for entry in instances],
        "pred_iou": [entry.pred_ious for entry in instances],
        "raw_iou": [entry.raw_ious for entry in instances],
        "use_raw": [np.where(entry.ignored, IGNORED, entry.use_raw).astype(np.uint8) for entry in instances],
        "bits": [entry.refined_masks.bits for entry in instances],
        "raw_bits": [masks.bits for masks in raw],
    }
    specs = COLUMNS | BITS
    return {
        "image_id": np.array([image.image_id for image in images], np.int64),
        "image_hw": np.array([(image.height, image.width) for image in images], np.int32).reshape(-1, 2),
        "inst_ptr": offsets(np.array([len(entry) for entry in instances], np.int64)),
        **{name: np.concatenate([specs[name].empty(), *arrays]) for name, arrays in rows.items()},
    }
