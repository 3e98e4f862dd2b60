"""From masks on the device to labels in the cache: only crops travel, bits are packed on another thread."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache.masks import Masks
from cache.records import ImageLabels, Instances
from s4m_pipeline.refine.prompts import boxes_of


@dataclass(frozen=True)
class CroppedMasks:
    """N masks of one image as their tight crops, on the CPU."""

    boxes_xyxy: list[list[int]]
    """Pixels, ends exclusive; all zeros for a mask without pixels."""
    pixels: NDArray[np.bool_]
    """The crops' pixels, row by row, one crop after the other."""

    @classmethod
    def of(cls, masks: Tensor) -> "CroppedMasks":
        """Crop masks (N, H, W) bool on their device and fetch the crops in one transfer."""
        if not len(masks):
            return cls([], np.zeros(0, np.bool_))
        visible = masks.flatten(1).any(dim=1)
        boxes: list[list[int]] = (boxes_of(masks).int() * visible[:, None]).tolist()
        crops = [mask[y0:y1, x0:x1].flatten() for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True)]
        return cls(boxes, torch.cat(crops).cpu().numpy())

    def pack(self) -> Masks:
        """As the cache keeps them."""
        sizes = [(y1 - y0, x1 - x0) for x0, y0, x1, y1 in self.boxes_xyxy]
        ends = np.cumsum([height * width for height, width in sizes])
        pieces = np.split(self.pixels, ends[:-1]) if sizes else []
        crops = [piece.reshape(size) for piece, size in zip(pieces, sizes, strict=True)]
        return Masks.from_crops(crops, [(y0, x0) for x0, y0, _, _ in self.boxes_xyxy])


@dataclass(frozen=True, kw_only=True)
class PseudoLabels:
    """The pseudo-labels of one image, N by falling score, on the CPU and not yet packed."""

    image_id: int
    image_hw_px: tuple[int, int]
    label: NDArray[np.int64]
    score: NDArray[np.float32]
    teacher_masks: CroppedMasks
    refined_masks: CroppedMasks | None
    """None: the teacher's masks are kept."""
    predicted_iou: NDArray[np.float32] | None

    def pack(self) -> ImageLabels:
        """As the cache keeps them."""
        raw = self.teacher_masks.pack()
        instances = Instances.create(
            masks=raw if self.refined_masks is None else self.refined_masks.pack(),
            raw_masks=raw,
            labels=self.label,
            scores=self.score,
            pred_ious=self.predicted_iou,
        )
        height, width = self.image_hw_px
        return ImageLabels(image_id=self.image_id, height=height, width=width, instances=instances)


class BackgroundWriter:
    """Packs and stores labels on a thread of its own, so that the device never waits for the disk.

    What goes wrong there is raised by the next `put`, or on leaving the context. At most `max_waiting`
    batches wait: a slow disk then slows `put` down instead of filling the memory.

    Args:
        store: takes the labels of one image.
        max_waiting: batches.
    """

    def __init__(self, store: Callable[[ImageLabels], None], max_waiting: int = 4) -> None:
        self._store_one = store
        self._max_waiting = max_waiting
        self._thread = ThreadPoolExecutor(1, "writer")
        self._waiting: deque[Future[None]] = deque()

    def put(self, batch: Sequence[PseudoLabels]) -> None:
        """Hand over a batch."""
        self._waiting.append(self._thread.submit(self._store, batch))
        while self._waiting and (self._waiting[0].done() or len(self._waiting) > self._max_waiting):
            self._waiting.popleft().result()

    def _store(self, batch: Sequence[PseudoLabels]) -> None:
        for labels in batch:
            self._store_one(labels.pack())

    def __enter__(self) -> "BackgroundWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True, cancel_futures=error is not None)
        if error is None:
            for future in self._waiting:
                future.result()
