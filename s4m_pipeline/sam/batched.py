"""SAM 2 for many images and prompts at once, without a Python loop over either.

Coordinates: an image is resized to a square of side S = `network.image_size`; its embedding has h x w tokens,
h = w = S / 16, and low-resolution masks are 4h x 4w. Axes: B images, N prompts (any number per image), n of
them in a chunk, C width.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor

from s4m_pipeline.data.packed_masks import masks_at_a_time
from s4m_pipeline.sam.chunks import Chunker
from s4m_pipeline.sam.functional import (
    ImageSide,
    Skips,
    final_attention,
    fold_skips,
    image_pyramid,
    make_masks,
    project_image_side,
    two_way,
)
from s4m_pipeline.sam.prompts import Prompts, embed_prompts


@dataclass(frozen=True, kw_only=True)
class ImageTokens:
    """Inputs of the decoder's two-way blocks for B images, in the compute dtype, on the model's device."""

    tokens_BChw: Tensor
    """(B, C, h, w), including the no-memory embedding, as `SAM2ImagePredictor.get_image_embedding`."""
    image_hw_px: tuple[tuple[int, int], ...]
    """B original sizes, in whose pixels the prompts are given."""

    def __len__(self) -> int:
        return len(self.image_hw_px)


@dataclass(frozen=True, kw_only=True)
class ImageEmbeddings(ImageTokens):
    """`ImageTokens` and the two finer levels that masks need."""

    stride_8: Tensor
    """(B, C / 4, 2h, 2w), already projected for the decoder."""
    stride_4: Tensor
    """(B, C / 8, 4h, 4w), already projected for the decoder."""


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """M = 1 mask per prompt, or 3 for the choice `all`."""

    logits: Tensor
    """(N, M, 4h, 4w) float32; positive is object."""
    iou: Tensor
    """(N, M) float32, predicted by SAM."""


IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)

MaskChoice = Literal["best", "all", "single"]
NUM_MASKS = {"best": 1, "all": 3, "single": 1}


class BatchedSam:
    """Batched image mode of a SAM 2 network, numerically equal to `SAM2ImagePredictor` per image.

    On the CPU, results do not depend on how images and prompts are batched; on a GPU, whose libraries choose
    kernels by shape, they may differ by rounding. All methods run without gradients, also under
    `torch.inference_mode` (except for targets of structural distillation: autograd refuses inference
    tensors).

    Args:
        network: modified in place: moved to `device` and, for bf16, converted, except for the prompt encoder
            and the IoU head, whose output chooses the mask.
        dtype: by default bf16 on a GPU, fp32 on the CPU.
        encoder_batch: images encoded at a time; halved when device memory runs out.
        decoder_chunk: prompts decoded at a time; halved when device memory runs out.
        compile: compile encoder and decoder with few shapes; batches and chunks are padded to powers of two.
    """

    def __init__(
        self,
        network: SAM2Base,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        encoder_batch: int | None = None,
        decoder_chunk: int | None = None,
        compile: bool = False,
    ) -> None:
        self.device = torch.device(device)
        on_gpu = self.device.type == "cuda"
        self.dtype = dtype or (torch.bfloat16 if on_gpu else torch.float32)
        self.network = network.to(self.device).eval()
        decoder = network.sam_mask_decoder
        network.image_encoder.to(self.dtype)
        for name, part in decoder.named_children():
            if name != "iou_prediction_head":
                part.to(self.dtype)
        self.encoder_batches = Chunker(encoder_batch or (16 if on_gpu else 1), "image")
        self.decoder_chunks = Chunker(decoder_chunk or (128 if on_gpu else 4), "prompt")
        self._compiled = compile
        self._run_encoder = self._compile(self._encode_batch)
        self._run_decoder = self._compile(self._decode_chunk)
        self._run_blocks = self._compile(self._two_way_chunk)

    @torch.no_grad()
    def encode(self, images: Sequence[Tensor]) -> ImageEmbeddings:
        """Embed B RGB images (3, H, W) of any sizes, uint8 or float in [0, 1], on any device."""
        tokens, stride_8, stride_4 = self._encode(images, levels=3)
        return ImageEmbeddings(
            tokens_BChw=tokens, stride_8=stride_8, stride_4=stride_4, image_hw_px=_sizes(images)
        )

    @torch.no_grad()
    def encode_tokens(self, images: Sequence[Tensor]) -> ImageTokens:
        """As `encode`, without the finer levels: all that similarity needs."""
        (tokens,) = self._encode(images, levels=1)
        return ImageTokens(tokens_BChw=tokens, image_hw_px=_sizes(images))

    @torch.no_grad()
    def decode(
        self, embeddings: ImageEmbeddings, image_index: Tensor, prompts: Prompts, masks: MaskChoice = "best"
    ) -> Decoded:
        """Masks for N prompts; `image_index` (N,) int64 is the index of each prompt's image. N may be 0.

        `best` keeps, of SAM's three masks, the one with the highest predicted IoU; `single` is SAM's
        single-mask output, recommended for unambiguous prompts.
        """
        if image_index.shape != (len(prompts),):
            raise ValueError(f"image_index has shape {tuple(image_index.shape)}, expected ({len(prompts)},)")
        image_index = image_index.to(self.device)
        height, width = (4 * side for side in embeddings.tokens_BChw.shape[-2:])
        num_masks = NUM_MASKS[masks]
        logits = torch.empty((len(prompts), num_masks, height, width), device=self.device)
        iou = torch.empty((len(prompts), num_masks), device=self.device)
        # A mask prompt is added to the image tokens, which then differ from prompt to prompt.
        shared = None if prompts.mask_logits is not None else self.image_side(embeddings)
        skips = fold_skips(self.network.sam_mask_decoder, embeddings.stride_8, embeddings.stride_4)

        def run(start: int, stop: int) -> tuple[Tensor, Tensor]:
            index = image_index[start:stop]
            side, prompt_tokens = self.prompt_side(
                embeddings, shared, index, prompts.chunk(start, stop, self.device)
            )
            inputs = self._padded(self.decoder_chunks, *side, prompt_tokens, *skips.rows(index))
            outputs = self._run_decoder(masks, *inputs)
            return outputs[0][: stop - start], outputs[1][: stop - start]

        for start, (chunk_logits, chunk_iou) in self.decoder_chunks.map(run, len(prompts)):
            stop = start + len(chunk_iou)
            logits[start:stop], iou[start:stop] = chunk_logits, chunk_iou
        return Decoded(logits=logits, iou=iou)

    def image_side(self, embeddings: ImageTokens) -> ImageSide:
        """The image side of the decoder's first block, B rows, for prompts without a mask."""
        no_mask = self.network.sam_prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        return self._project(embeddings.tokens_BChw, no_mask)

    def prompt_side(
        self, embeddings: ImageTokens, shared: ImageSide | None, index: Tensor, prompts: Prompts
    ) -> tuple[ImageSide, Tensor]:
        """The first block's image side, a row per prompt, and the prompts' tokens (n, T, C)."""
        sizes = torch.tensor(embeddings.image_hw_px, dtype=torch.float32, device=self.device)
        sparse, dense = embed_prompts(self.network.sam_prompt_encoder, prompts, sizes.flip(1)[index])
        if dense is not None:
            side = self._project(embeddings.tokens_BChw[index], dense)
        else:
            assert shared is not None
            side = shared.rows(index)
        decoder = self.network.sam_mask_decoder
        outputs = [decoder.obj_score_token.weight] if decoder.pred_obj_scores else []
        outputs += [decoder.iou_token.weight, decoder.mask_tokens.weight]
        output_tokens = torch.cat(outputs).expand(len(sparse), -1, -1)
        return side, torch.cat([output_tokens, sparse.to(self.dtype)], dim=1)

    def block_tokens(self, side: ImageSide, prompt_tokens: Tensor) -> Tensor:
        """Image tokens (n, L, C) after the two-way blocks, of what `prompt_side` returns."""
        inputs = self._padded(self.decoder_chunks, *side, prompt_tokens)
        return self._run_blocks(*inputs)[: len(prompt_tokens)]

    def position_encoding(self) -> Tensor:
        """(1, h * w, C), computed in fp32."""
        grid: Tensor = self.network.sam_prompt_encoder.get_dense_pe()
        return grid.flatten(2).transpose(1, 2).to(self.dtype)

    def _project(self, tokens: Tensor, dense: Tensor) -> ImageSide:
        placed = (tokens + dense.to(self.dtype)).flatten(2).transpose(1, 2)
        return project_image_side(
            self.network.sam_mask_decoder.transformer.layers[0], placed, self.position_encoding()
        )

    def _compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return torch.compile(function, dynamic=False) if self._compiled else function

    def _padded(self, chunks: Chunker, *inputs: Tensor) -> list[Tensor]:
        """The inputs of a compiled function, all of the same number of rows, in one of few shapes."""
        count = len(inputs[0])
        size = chunks.padded(count) if self._compiled else count
        return [_pad_rows(rows, size) for rows in inputs]

    def _prepare(self, image: Tensor) -> Tensor:
        """Resize to the model's square and normalize, on the device, as SAM's own transform does."""
        pixels = image.to(self.device)
        pixels = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels.float()
        side = self.network.image_size
        pixels = F.interpolate(
            pixels[None], (side, side), mode="bilinear", antialias=True, align_corners=False
        )[0]
        mean = torch.tensor(IMAGE_MEAN, device=self.device)[:, None, None]
        std = torch.tensor(IMAGE_STD, device=self.device)[:, None, None]
        return ((pixels - mean) / std).to(self.dtype)

    def _encode(self, images: Sequence[Tensor], levels: int) -> list[Tensor]:
        """`levels` maps of B images: tokens, stride 8, stride 4."""
        if not images:
            raise ValueError("no images to encode")

        def run(start: int, stop: int) -> list[Tensor]:
            batch = torch.stack([self._prepare(image) for image in images[start:stop]])
            (padded,) = self._padded(self.encoder_batches, batch)
            return [rows[: len(batch)] for rows in self._run_encoder(padded, levels)]

        batches = [maps for _, maps in self.encoder_batches.map(run, len(images))]
        return [torch.cat(level) for level in zip(*batches, strict=True)]

    def _encode_batch(self, batch: Tensor, levels: int) -> list[Tensor]:
        """Maps of prepared images, the fine ones projected for the decoder."""
        network, decoder = self.network, self.network.sam_mask_decoder
        # sam2's neck adds its levels in fp32, so they may have either dtype.
        tokens, *fine = (
            level.to(self.dtype) for level in image_pyramid(network.image_encoder, batch, levels)
        )
        if network.directly_add_no_mem_embed:
            tokens = tokens + network.no_mem_embed.reshape(1, -1, 1, 1).to(self.dtype)
        projections = (decoder.conv_s1, decoder.conv_s0)
        return [tokens, *(project(level) for project, level in zip(projections, fine, strict=False))]

    def _decode_chunk(
        self,
        masks: MaskChoice,
        tokens: Tensor,
        keys: Tensor,
        values: Tensor,
        queries: Tensor,
        prompt_tokens: Tensor,
        stride_8: Tensor,
        stride_4: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Logits (n, M, 4h, 4w) and predicted IoU (n, M), float32; all inputs have one row per prompt."""
        decoder, pe = self.network.sam_mask_decoder, self.position_encoding()
        side = ImageSide(tokens, keys, values, queries)
        out_tokens, image_tokens = two_way(decoder.transformer, side, prompt_tokens, pe)
        out_tokens = final_attention(decoder.transformer, out_tokens, prompt_tokens, image_tokens, pe)
        # Output tokens: object score if the model predicts it, IoU, then one for each of the four masks.
        first = 1 if decoder.pred_obj_scores else 0
        iou = decoder.iou_prediction_head(out_tokens[:, first].float())
        mask_tokens = out_tokens[:, first + 1 : first + 1 + decoder.num_mask_tokens]
        kernels = torch.stack(
            [mlp(mask_tokens[:, i]) for i, mlp in enumerate(decoder.output_hypernetworks_mlps)], dim=1
        )
        iou, kernels = _choose(masks, iou, kernels)

        height, width = self.network.sam_prompt_encoder.image_embedding_size
        logits = make_masks(decoder, image_tokens, Skips(stride_8, stride_4), kernels, height, width)
        return logits.float(), iou

    def _two_way_chunk(
        self, tokens: Tensor, keys: Tensor, values: Tensor, queries: Tensor, prompt_tokens: Tensor
    ) -> Tensor:
        side = ImageSide(tokens, keys, values, queries)
        transformer = self.network.sam_mask_decoder.transformer
        return two_way(transformer, side, prompt_tokens, self.position_encoding())[1]


def _sizes(images: Sequence[Tensor]) -> tuple[tuple[int, int], ...]:
    return tuple((image.shape[-2], image.shape[-1]) for image in images)


def _choose(masks: MaskChoice, iou: Tensor, kernels: Tensor) -> tuple[Tensor, Tensor]:
    """Select the requested outputs (0 is the single mask, 1 to 3 the three masks) before masks are made."""
    if masks == "single":
        return iou[:, :1], kernels[:, :1]
    iou, kernels = iou[:, 1:], kernels[:, 1:]
    if masks == "all":
        return iou, kernels
    # Choosing kernels (n, M, C / 8) rather than masks: two of three masks are never made.
    best = iou.argmax(dim=1, keepdim=True)
    return iou.gather(1, best), kernels.gather(1, best[..., None].expand(-1, -1, kernels.shape[-1]))


def _pad_rows(rows: Tensor, size: int) -> Tensor:
    """Pad to `size` rows by repeating the last one."""
    missing = size - len(rows)
    return rows if missing == 0 else torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])])


def full_size_masks(
    logits: Tensor, image_index: Tensor, image_hw_px: Sequence[tuple[int, int]], max_px: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Upsample masks to the sizes of their images and threshold them, on the device.

    `logits` (N, 4h, 4w) float, `image_index` (N,) int64. Yields `(rows, masks)`: `rows` (n,) int64 into
    `logits`, all of one image, and `masks` (n, H, W) bool, as many as `masks_at_a_time` allows.
    """
    for image, size in enumerate(image_hw_px):
        image_rows = (image_index == image).nonzero()[:, 0]
        chunk = masks_at_a_time(size, logits.device, max_px)
        for start in range(0, len(image_rows), chunk):
            rows = image_rows[start : start + chunk]
            full = F.interpolate(logits[rows, None], size, mode="bilinear", align_corners=False)[:, 0]
            yield rows, full > 0
