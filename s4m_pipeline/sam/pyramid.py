"""SAM 2's image encoder, from the coarsest level down to the one that is asked for."""

import torch.nn.functional as F
from sam2.modeling.backbones.image_encoder import ImageEncoder
from torch import Tensor


def image_pyramid(encoder: ImageEncoder, images: Tensor, levels: int) -> list[Tensor]:
    """Feature maps of prepared images (B, 3, S, S): strides 16, 8 and 4, as many as `levels` says.

    Equal to `backbone_fpn` of the encoder, in reverse order. The finer maps, which only masks need, are most
    of the neck's work, and sam2 makes a position encoding as large as each map, which image mode never reads.
    """
    neck = encoder.neck
    features = encoder.trunk(images)
    coarsest = len(features) - 1
    maps: list[Tensor] = []
    for i in range(coarsest, coarsest - encoder.scalp - levels, -1):
        level = neck.convs[coarsest - i](features[i])
        if maps and i in neck.fpn_top_down_levels:
            smooth = neck.fpn_interp_model != "nearest"
            # sam2 adds up in fp32, whatever the compute dtype.
            above = F.interpolate(
                maps[-1].float(),
                scale_factor=2.0,
                mode=neck.fpn_interp_model,
                align_corners=False if smooth else None,
            )
            level = level + above
            if neck.fuse_type == "avg":
                level = level / 2
        maps.append(level)
    return maps[encoder.scalp :]
