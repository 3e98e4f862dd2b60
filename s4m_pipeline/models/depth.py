"""Depth Feature Fusion and Depth Controller, after Depth-Guided (Chen et al., arXiv 2406.17413).

Axes: B images, C channels of a feature map, D of the depth map's features, h x w cells.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class DepthFusion(nn.Module):
    """Adds what a depth map shows to each feature map of the backbone.

    Features of the depth map are concatenated with those of the image, and a 1 x 1 convolution mixes both, as
    in the paper. A controller decides from both how much the result counts, by image and level. Different
    here: the depth map has a light encoder of its own, which learns with the network, and the mixture is
    added to the image's features. It is zero at first, so that a network starts as it is without depth.

    Args:
        channels: of each feature map, at strides 4, 8, ...
        width: D.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.stem = _halve(1, width)
        self.stages = nn.ModuleList(_halve(width, width) for _ in channels)
        self.mixers = nn.ModuleList(_zero(nn.Conv2d(count + width, count, 1)) for count in channels)
        self.controllers = nn.ModuleList(nn.Linear(count + width, 1) for count in channels)

    def forward(self, levels: Sequence[Tensor], depth_B1HW: Tensor) -> list[Tensor]:
        """The feature maps (B, C, h, w) of an image with what its normalized depth map (B, 1, H, W) adds."""
        fused, found_BDhw = [], self.stem(depth_B1HW)
        for level_BChw, stage, mixer, controller in zip(
            levels, self.stages, self.mixers, self.controllers, strict=True
        ):
            found_BDhw = stage(found_BDhw)
            both = torch.cat([level_BChw, found_BDhw], dim=1)
            share_B1 = controller(both.mean(dim=(2, 3))).sigmoid()
            fused.append(level_BChw + share_B1[..., None, None] * mixer(both))
        return fused


def _zero(layer: nn.Module) -> nn.Module:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def _halve(channels: int, width: int) -> nn.Module:
    """Features at half the resolution, rounded up."""
    return nn.Sequential(
        nn.Conv2d(channels, width, kernel_size=3, stride=2, padding=1), nn.GroupNorm(8, width), nn.GELU()
    )
