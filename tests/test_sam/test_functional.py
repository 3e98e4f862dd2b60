"""The feature levels equal those of sam2's encoder, and only the requested ones are computed."""

import pytest
import torch
from sam2.modeling.backbones.hieradet import Hiera
from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
from sam2.modeling.position_encoding import PositionEmbeddingSine

from s4m_pipeline.sam import BatchedSam, ImageEmbeddings
from s4m_pipeline.sam.functional import image_pyramid


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize(
    ("scalp", "neck"),
    [
        (1, {"fpn_top_down_levels": [2, 3], "fpn_interp_model": "nearest"}),
        (0, {"fpn_interp_model": "bilinear"}),
        (0, {"fpn_interp_model": "nearest", "fuse_type": "avg"}),
    ],
)
def test_image_pyramid__equals_the_encoder(scalp: int, neck: dict[str, object], levels: int) -> None:
    torch.manual_seed(0)
    stages = [1, 1, 1, 2] if scalp else [1, 2, 2]
    trunk = Hiera(
        embed_dim=8,
        num_heads=1,
        stages=stages,
        q_pool=len(stages) - 1,
        window_spec=[4] * len(stages),
        global_att_blocks=[sum(stages) - 1],
        window_pos_embed_bkg_spatial_size=(4, 4),
    )
    position = PositionEmbeddingSine(num_pos_feats=16)
    encoder = ImageEncoder(trunk, FpnNeck(position, 16, trunk.channel_list, **neck), scalp).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = encoder(images)["backbone_fpn"][::-1][:levels]
        found = image_pyramid(encoder, images, levels)
    assert len(found) == levels
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_encode_tokens__equals_encode_and_leaves_the_finer_levels_out(
    make_sam, small_images: list[torch.Tensor], small_embeddings: ImageEmbeddings
) -> None:
    sam: BatchedSam = make_sam(256)
    decoder, neck = sam.network.sam_mask_decoder, sam.network.image_encoder.neck
    for module in (decoder.conv_s0, decoder.conv_s1, neck.convs[-1], neck.convs[-2]):
        module.register_forward_pre_hook(lambda *_: pytest.fail("a finer level was computed"))
    found = sam.encode_tokens(small_images)
    assert torch.equal(found.tokens_BChw, small_embeddings.tokens_BChw)
    assert found.image_hw_px == small_embeddings.image_hw_px
