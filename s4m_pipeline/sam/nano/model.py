"""SAM2Base with the decoder's hard-coded widths as arguments; nothing else differs from sam2."""

from typing import Any

from sam2.modeling.sam.mask_decoder import MaskDecoder
from sam2.modeling.sam.prompt_encoder import PromptEncoder
from sam2.modeling.sam.transformer import TwoWayTransformer
from sam2.modeling.sam2_base import SAM2Base
from torch import nn


class NanoSam2(SAM2Base):
    """SAM 2 for single images at small widths.

    sam2 fixes the decoder's feed-forward width (2048), head count (8) and IoU head (256), which would hold
    most of a small model's parameters.
    """

    def __init__(
        self, *, decoder_mlp_dim: int, decoder_num_heads: int, iou_head_hidden_dim: int, **sam2_arguments: Any
    ) -> None:
        self.decoder_mlp_dim = decoder_mlp_dim
        self.decoder_num_heads = decoder_num_heads
        self.iou_head_hidden_dim = iou_head_hidden_dim
        super().__init__(**sam2_arguments)

    def _build_sam_heads(self) -> None:
        width = self.hidden_dim
        size = self.image_size // self.backbone_stride
        self.sam_prompt_embed_dim = width
        self.sam_image_embedding_size = size
        self.sam_prompt_encoder = PromptEncoder(
            embed_dim=width,
            image_embedding_size=(size, size),
            input_image_size=(self.image_size, self.image_size),
            mask_in_chans=16,
        )
        self.sam_mask_decoder = MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(
                depth=2, embedding_dim=width, mlp_dim=self.decoder_mlp_dim, num_heads=self.decoder_num_heads
            ),
            transformer_dim=width,
            iou_head_depth=3,
            iou_head_hidden_dim=self.iou_head_hidden_dim,
            use_high_res_features=self.use_high_res_features_in_sam,
            iou_prediction_use_sigmoid=self.iou_prediction_use_sigmoid,
        )
        self.obj_ptr_proj = nn.Identity()
        self.obj_ptr_tpos_proj = nn.Identity()
