"""Decoder image tokens for structural distillation: one single-point prompt per query point.

F_SAM (paper, section 4.1) is the image embedding after the two-way blocks, before the final attention and the
upscaling. The tokens of a point take 4 MiB in fp32 at 64 x 64 x 256, so similarity is computed in chunks.
Axes: B images, P points per image, C width, L = h * w tokens.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from s4m_pipeline.sam.batched import BatchedSam, ImageTokens
from s4m_pipeline.sam.prompts import Prompts

SdTarget = Literal["decoder", "encoder"]


class SimilarityRows(NamedTuple):
    """Similarity of each query point's token with all tokens."""

    rows_BPL: Tensor
    """(B, P, h * w) float32 cosine similarity of the point's token to all tokens."""
    token_index_BP: Tensor
    """(B, P) int64 index q_i of the point's token: row * w + column."""


def similarity_rows(
    sam: BatchedSam, embeddings: ImageTokens, points_xy_px: Tensor, target: SdTarget = "decoder"
) -> SimilarityRows:
    """C_SAM(i, j) = cos(F[q_i], F[j]) for `points_xy_px` (B, P, 2) in pixels of the original images.

    F are the decoder tokens for a prompt of that point alone or, for `encoder`, the image embedding.
    """
    height, width = embeddings.tokens_BChw.shape[-2:]
    index = token_index(points_xy_px.to(sam.device), embeddings.image_hw_px, height, width)
    if target == "encoder":
        tokens = embeddings.tokens_BChw.flatten(2).transpose(1, 2)
        return SimilarityRows(_cosine_rows(tokens, index), index)
    rows = torch.empty((index.numel(), height * width), device=sam.device)
    flat_index = index.reshape(-1, 1)
    for start, tokens in stream_decoder_tokens(sam, embeddings, points_xy_px):
        stop = start + len(tokens)
        rows[start:stop] = _cosine_rows(tokens, flat_index[start:stop])[:, 0]
    return SimilarityRows(rows.reshape(*index.shape, -1), index)


def stream_decoder_tokens(
    sam: BatchedSam, embeddings: ImageTokens, points_xy_px: Tensor
) -> Iterator[tuple[int, Tensor]]:
    """Yield `(start, tokens (n, L, C))` over the B * P points in order, a decoder chunk at a time."""
    num_images, num_points, _ = points_xy_px.shape
    prompts = Prompts(points_xy_px=points_xy_px.reshape(-1, 1, 2))
    image_index = torch.arange(num_images, device=sam.device).repeat_interleave(num_points)
    with torch.no_grad():
        shared = sam.image_side(embeddings)

    @torch.no_grad()
    def run(start: int, stop: int) -> Tensor:
        chunk = prompts.chunk(start, stop, sam.device)
        side, prompt_tokens = sam.prompt_side(embeddings, shared, image_index[start:stop], chunk)
        return sam.block_tokens(side, prompt_tokens)

    yield from sam.decoder_chunks.map(run, len(prompts))


def token_index(
    points_xy_px: Tensor, image_hw_px: tuple[tuple[int, int], ...], height: int, width: int
) -> Tensor:
    """(B, P) index of the token whose cell contains each point (B, P, 2); pixel x covers [x, x + 1)."""
    # Images are resized to the token grid, each with its own factors; + 0.5 is the center of the pixel.
    size_wh_px = torch.tensor(image_hw_px, device=points_xy_px.device).flip(1)[:, None]
    grid_wh = torch.tensor([width, height], device=points_xy_px.device)
    column, row = (
        ((points_xy_px + 0.5) / size_wh_px * grid_wh).long().clamp(min=0).minimum(grid_wh - 1).unbind(-1)
    )
    return row * width + column


@torch.no_grad()
def _cosine_rows(tokens_BLC: Tensor, index_BP: Tensor) -> Tensor:
    """(B, P, L) float32 cosine of tokens `index_BP` to all tokens."""
    tokens = tokens_BLC.float()
    unit = tokens / tokens.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    # gather wants the index for each channel: (B, P) -> (B, P, C), expanded without a copy.
    queries = unit.gather(1, index_BP[..., None].expand(-1, -1, unit.shape[-1]))
    return torch.bmm(queries, unit.transpose(1, 2))
