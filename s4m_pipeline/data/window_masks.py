"""Instance masks that stay packed through the geometric augmentation of an image."""

from collections.abc import Sequence
from typing import Any, NoReturn

import mmcv
import numpy as np
import numpy.typing as npt
import torch
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BaseInstanceMasks
from torch import Tensor

from s4m_cache.masks import Masks
from s4m_pipeline.core.errors import UserError


class WindowMasks(BaseInstanceMasks):
    """Bit-packed masks of one image under resize, crop, flip and pad; equal to mmdet's `BitmapMasks`.

    Each of these operations moves whole rows and columns. So the packed masks are kept with two index arrays:
    for every row and column of the augmented image, the original one that it is copied from, or -1 for
    padding. An operation on the masks is the same operation on these arrays. Pixels are read when boxes,
    areas or masks are first needed, for each instance only those in its box and in the crop.

    Loading processes also send masks packed: kilobytes, where dense masks take megabytes of the shared memory
    that has to hold all prefetched batches.

    Boxes here are mmdet's, x0, y0, x1, y1; those of `masks` are the cache's, y0, x0, y1, x1.

    Args:
        masks: M packed masks.
        height: of the image, in pixels.
        width: likewise.

    Raises:
        UserError: by operations that a pipeline may contain but that do not move whole rows and columns.
    """

    def __init__(self, masks: Masks, height: int, width: int) -> None:
        self._masks = masks
        self._rows: npt.NDArray[np.int32] = np.arange(height, dtype=np.int32)
        self._columns: npt.NDArray[np.int32] = np.arange(width, dtype=np.int32)
        self._moved = False  # whether rows and columns differ from 0, 1, 2, ...

    def __reduce__(self) -> tuple[Any, ...]:
        return WindowMasks, (self.packed(), self.height, self.width)

    def __len__(self) -> int:
        return len(self._masks)

    def __repr__(self) -> str:
        return f"WindowMasks(num_masks={len(self)}, height={self.height}, width={self.width})"

    @property
    def height(self) -> int:
        """Height of the augmented image, in pixels."""
        return len(self._rows)

    @property
    def width(self) -> int:
        """Width of the augmented image, in pixels."""
        return len(self._columns)

    def __getitem__(self, index: Any) -> "WindowMasks":
        """The masks at some positions: one number, several, a slice, or where a bool array is true."""
        chosen = np.atleast_1d(np.arange(len(self))[index])
        return self._derive(self._masks.select(chosen), self._rows, self._columns, moved=self._moved)

    def resize(self, out_shape: Sequence[int], interpolation: str = "nearest") -> "WindowMasks":
        """To `out_shape` (height, width); only with the nearest pixel."""
        if interpolation != "nearest":
            _refuse(f"resized with {interpolation!r}, only with 'nearest'")
        height, width = out_shape
        # Index arrays are resized as images of one column or row: mmcv itself chooses the nearest pixel.
        rows = mmcv.imresize(self._rows[:, None], (1, height), interpolation="nearest")
        columns = mmcv.imresize(self._columns[None], (width, 1), interpolation="nearest")
        return self._derive(self._masks, rows.reshape(height), columns.reshape(width))

    def rescale(self, scale: float | tuple[int, int], interpolation: str = "nearest") -> "WindowMasks":
        """By a factor, or to the largest size of the same aspect ratio within `scale`."""
        width, height = mmcv.rescale_size((self.width, self.height), scale)
        return self.resize((height, width), interpolation)

    def flip(self, flip_direction: str = "horizontal") -> "WindowMasks":
        """In "horizontal", "vertical" or "diagonal" (both) direction."""
        if flip_direction not in ("horizontal", "vertical", "diagonal"):
            raise ValueError(f"unknown direction {flip_direction!r}")
        rows = self._rows if flip_direction == "horizontal" else self._rows[::-1]
        columns = self._columns if flip_direction == "vertical" else self._columns[::-1]
        return self._derive(self._masks, rows, columns)

    def pad(self, out_shape: Sequence[int], pad_val: int = 0) -> "WindowMasks":
        """To `out_shape` (height, width), with pixels of no mask below and on the right."""
        if pad_val != 0:
            _refuse(f"padded with {pad_val}, only with 0")
        below, right = out_shape[0] - self.height, out_shape[1] - self.width
        rows = np.pad(self._rows, (0, below), constant_values=-1)
        columns = np.pad(self._columns, (0, right), constant_values=-1)
        return self._derive(self._masks, rows, columns)

    def crop(self, bbox: npt.NDArray[Any]) -> "WindowMasks":
        """To the box (x0, y0, x1, y1), clipped to the image, ends exclusive; a pixel at least."""
        x0, x1 = np.clip(bbox[0::2], 0, self.width).astype(int).tolist()
        y0, y1 = np.clip(bbox[1::2], 0, self.height).astype(int).tolist()
        return self._derive(
            self._masks, self._rows[y0 : max(y1, y0 + 1)], self._columns[x0 : max(x1, x0 + 1)]
        )

    def packed(self) -> Masks:
        """The masks in the augmented image, packed."""
        if self._moved:
            moved = _copy_pixels(self._masks, self._rows, self._columns)
            self.__init__(moved, self.height, self.width)  # type: ignore[misc]
        return self._masks

    @property
    def areas(self) -> npt.NDArray[np.int64]:
        """Pixels of each mask, int64 (M,)."""
        return self.packed().areas

    def get_bboxes(self, dst_type: Any = "hbox") -> HorizontalBoxes:
        """The smallest boxes around the masks, (M, 4) x0, y0, x1, y1, ends exclusive; 0 without pixels."""
        if dst_type not in ("hbox", HorizontalBoxes):
            _refuse(f"given boxes of {dst_type!r}, only horizontal ones")
        return HorizontalBoxes(self.packed().boxes[:, [1, 0, 3, 2]].astype(np.float32))

    @property
    def masks(self) -> npt.NDArray[np.uint8]:
        """As `to_ndarray`."""
        return self.to_ndarray()

    def to_ndarray(self) -> npt.NDArray[np.uint8]:
        """A new array (M, height, width) of 0 and 1."""
        return self._dense().view(np.uint8)

    def to_tensor(self, dtype: torch.dtype, device: torch.device | str) -> Tensor:
        """(M, height, width) on a device; copied as bool, before the conversion to `dtype`."""
        return torch.from_numpy(self._dense()).to(device).to(dtype)

    def crop_and_resize(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not supported."""
        _refuse("cropped and resized in one")

    def expand(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not supported."""
        _refuse("expanded")

    def translate(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not supported."""
        _refuse("translated")

    def shear(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not supported."""
        _refuse("sheared")

    def rotate(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not supported."""
        _refuse("rotated")

    @classmethod
    def cat(cls, masks: Any) -> NoReturn:
        """Not supported."""
        _refuse("concatenated")

    def _derive(
        self,
        masks: Masks,
        rows: npt.NDArray[np.int32],
        columns: npt.NDArray[np.int32],
        moved: bool = True,
    ) -> "WindowMasks":
        derived = WindowMasks(masks, 0, 0)
        derived._rows, derived._columns, derived._moved = rows, columns, moved
        return derived

    def _dense(self) -> npt.NDArray[np.bool_]:
        return self.packed().dense((0, 0, self.height, self.width))


def _copy_pixels(masks: Masks, rows: npt.NDArray[np.int32], columns: npt.NDArray[np.int32]) -> Masks:
    """Masks of an image whose pixel (y, x) is that at (rows[y], columns[x]), and empty where one is -1.

    Both arrays are monotonic except for -1 at the end, so the new pixels of a box are contiguous.
    """
    boxes: list[npt.NDArray[np.int32]] = [np.zeros((0, 4), np.int32)]
    bits: list[npt.NDArray[np.uint8]] = [np.zeros(0, np.uint8)]
    for (y0, x0, y1, x1), crop in zip(masks.boxes.tolist(), masks.crops(), strict=True):
        inside_y = np.flatnonzero((rows >= y0) & (rows < y1))
        inside_x = np.flatnonzero((columns >= x0) & (columns < x1))
        # The crop (h, w) of the old box -> rows and columns of the new one, some repeated, some left out.
        pixels = crop.take(rows[inside_y] - y0, axis=0).take(columns[inside_x] - x0, axis=1)
        piece = Masks.from_dense(pixels[None])
        if piece.bits.size:  # tight in `pixels`; moved to where these lie in the augmented image
            piece.boxes[:] += np.array([inside_y[0], inside_x[0]] * 2, np.int32)
        boxes.append(piece.boxes)
        bits.append(piece.bits)
    return Masks(np.concatenate(boxes), np.concatenate(bits))


def _refuse(done: str) -> NoReturn:
    raise UserError(
        f"train_pipeline: packed masks cannot be {done}.\nOf the geometric transforms, resize, crop, flip "
        "and pad are supported. Remove the other one from the pipeline or, if no training has unlabeled "
        "images, use LoadAnnotations(with_bbox=True, with_mask=True) instead of LoadInstances."
    )
