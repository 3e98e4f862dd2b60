"""SD tokens: the shared first block equals sam2's own transformer, prompt by prompt."""

import pytest
import torch
import torch.nn.functional as F

from s4m_pipeline.sam import (
    BatchedSam,
    ImageEmbeddings,
    similarity_rows,
    stream_decoder_tokens,
)
from s4m_pipeline.sam.tokens import token_index

NUM_POINTS = 5


@pytest.fixture(scope="module")
def points_xy_px(small_embeddings: ImageEmbeddings) -> torch.Tensor:
    size_wh = torch.tensor(small_embeddings.image_hw_px).flip(1)
    return torch.rand((4, NUM_POINTS, 2), generator=torch.Generator().manual_seed(2)) * (size_wh[:, None] - 1)


@pytest.fixture(scope="module")
def plain_tokens(small_sam: BatchedSam, small_embeddings: ImageEmbeddings, points_xy_px: torch.Tensor):
    """(B, P, C, h, w) from sam2's own forward, one prompt at a time: its transformer's second output."""
    decoder, encoder = small_sam.network.sam_mask_decoder, small_sam.network.sam_prompt_encoder
    caught = []
    hook = decoder.transformer.register_forward_hook(lambda *call: caught.append(call[-1][1]))
    with torch.no_grad():
        for image, (height, width) in enumerate(small_embeddings.image_hw_px):
            for point in points_xy_px[image]:
                placed = point / torch.tensor([width, height]) * small_sam.network.image_size
                sparse, dense = encoder(points=(placed[None, None], torch.ones(1, 1)), boxes=None, masks=None)
                decoder(
                    image_embeddings=small_embeddings.tokens_BChw[image : image + 1],
                    image_pe=encoder.get_dense_pe(),
                    sparse_prompt_embeddings=sparse,
                    dense_prompt_embeddings=dense,
                    multimask_output=True,
                    repeat_image=False,
                    high_res_features=[
                        small_embeddings.stride_4[image, None],
                        small_embeddings.stride_8[image, None],
                    ],
                )
    hook.remove()
    tokens_NCL = torch.cat(caught).transpose(1, 2)
    return tokens_NCL.reshape(4, NUM_POINTS, *small_embeddings.tokens_BChw.shape[1:])


def test_stream_decoder_tokens__shared_first_block_equals_the_plain_path(
    small_sam, small_embeddings, points_xy_px, plain_tokens
) -> None:
    chunks = [tokens for _, tokens in stream_decoder_tokens(small_sam, small_embeddings, points_xy_px)]
    found = torch.cat(chunks).transpose(1, 2).reshape(plain_tokens.shape)
    torch.testing.assert_close(found, plain_tokens, atol=2e-5, rtol=0)


def test_similarity_rows__equal_cosines_of_the_plain_tokens(
    small_sam, small_embeddings, points_xy_px, plain_tokens
) -> None:
    rows, index = similarity_rows(small_sam, small_embeddings, points_xy_px)
    for image in range(4):
        for point in range(NUM_POINTS):
            tokens = plain_tokens[image, point].flatten(1)
            expected = F.cosine_similarity(tokens[:, index[image, point], None], tokens, dim=0)
            torch.testing.assert_close(rows[image, point], expected, atol=2e-5, rtol=0)


def test_similarity_rows__each_point_is_one_with_itself(small_sam, small_embeddings, points_xy_px) -> None:
    for target in ("decoder", "encoder"):
        rows, index = similarity_rows(small_sam, small_embeddings, points_xy_px, target)
        assert rows.shape == (4, NUM_POINTS, 256)
        torch.testing.assert_close(rows.gather(2, index[..., None]), torch.ones(4, NUM_POINTS, 1))
        assert rows.abs().max() <= 1 + 1e-5


def test_similarity_rows__encoder_target_equals_cosines_of_the_embedding(
    small_sam, small_embeddings, points_xy_px
) -> None:
    rows, index = similarity_rows(small_sam, small_embeddings, points_xy_px, "encoder")
    tokens = small_embeddings.tokens_BChw[1].flatten(1)
    torch.testing.assert_close(rows[1, 3], F.cosine_similarity(tokens[:, index[1, 3], None], tokens, dim=0))


def test_similarity_rows__target_of_a_loss_lets_gradients_through_the_other_side(
    small_sam, small_embeddings, points_xy_px
) -> None:
    rows = similarity_rows(small_sam, small_embeddings, points_xy_px).rows_BPL
    teacher = torch.zeros_like(rows, requires_grad=True)
    F.smooth_l1_loss(teacher, rows).backward()
    assert not rows.requires_grad
    assert teacher.grad is not None and teacher.grad.abs().sum() > 0


def test_stream_decoder_tokens__yields_chunks_in_order(small_sam, small_embeddings, points_xy_px) -> None:
    starts = [
        (start, len(tokens))
        for start, tokens in stream_decoder_tokens(small_sam, small_embeddings, points_xy_px)
    ]
    assert starts == [(0, 4), (4, 4), (8, 4), (12, 4), (16, 4)]


def test_token_index__pixel_centers_fall_into_the_cell_that_covers_them() -> None:
    points = torch.tensor([[[0.0, 0.0], [3.0, 0.0], [4.0, 0.0], [99.0, 49.0], [-2.0, 60.0]]])
    index = token_index(points, ((50, 100),), height=25, width=25)
    assert index.tolist() == [[0, 0, 1, 24 * 25 + 24, 24 * 25]]
