"""Where the cells of the teacher's masks lie on the image that was photographed."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

STRIDE_PX = 4
"""Pixels of the network's input per cell of Mask2Former's masks, either way."""


@dataclass(frozen=True)
class MaskFrame:
    """The image was resized to the network's input, padded, and masks have a cell for every 4 pixels of that.

    Where the input's size is no multiple of 4, the last row or column of cells lies partly in the padding.
    """

    image_hw_px: tuple[int, int]
    """Height and width of the original image."""
    input_hw_px: tuple[int, int]
    """Height and width of the network's input, without padding."""

    @property
    def grid_hw(self) -> tuple[int, int]:
        """Rows and columns of cells that touch the image."""
        height, width = (-(-side // STRIDE_PX) for side in self.input_hw_px)
        return height, width

    @property
    def cell_wh_px(self) -> tuple[float, float]:
        """Width and height of a cell in pixels of the original image."""
        (height, width), (input_height, input_width) = self.image_hw_px, self.input_hw_px
        return STRIDE_PX * width / input_width, STRIDE_PX * height / input_height

    def resample(self, logits: Tensor, size_hw: tuple[int, int]) -> Tensor:
        """Logits (N, h, w) on the grid as (N, *size_hw) over exactly the image, bilinear as in evaluation."""
        height, width = self.grid_hw
        fine = _resize(logits, (STRIDE_PX * height, STRIDE_PX * width))
        fine = fine[:, : self.input_hw_px[0], : self.input_hw_px[1]]
        return fine if size_hw == self.input_hw_px else _resize(fine, size_hw)


def _resize(logits: Tensor, size_hw: tuple[int, int]) -> Tensor:
    return F.interpolate(logits[:, None], size_hw, mode="bilinear", align_corners=False)[:, 0]
