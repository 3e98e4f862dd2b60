"""mmdet's preprocessor for any number of channels."""

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models import DetDataPreprocessor
from mmdet.registry import MODELS


@MODELS.register_module()
class ChannelsPreprocessor(DetDataPreprocessor):
    """Pads images, then normalizes each channel; mmdet's own takes 1 or 3 channels only.

    Args:
        mean: of each channel, in 0..255.
        std: standard deviation of each channel, likewise.
        padding: the other arguments of mmdet's `DetDataPreprocessor`.
    """

    def __init__(self, *, mean: Sequence[float], std: Sequence[float], **padding: Any) -> None:
        super().__init__(**padding)  # without mean and std it stacks and pads, but does not normalize
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """Normalized and padded images (B, C, H, W) float32 as `inputs`, and their `data_samples`."""
        data = self.padded(data, training)
        for image, sample in zip(data["inputs"], data["data_samples"], strict=True):
            height, width = sample.img_shape[:2]
            image[:, :height, :width].sub_(self.mean).div_(self.std)  # the padding keeps its value
        return data

    def padded(self, data: dict[str, Any], training: bool) -> dict[str, Any]:
        """The same before normalization."""
        padded: dict[str, Any] = super().forward(data, training)
        return padded
