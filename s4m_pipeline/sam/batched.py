"""SAM 2 over many images and prompts at once: one encoder stream, one decoder stream, no loop over either.

Frames: an image is squashed to a square of side S = `network.image_size`; its embedding has h x w tokens,
h = w = S / 16, and low-resolution masks are 4h x 4w. Axes: B images, N prompts (any number per image), n of
them in a chunk, C width.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor

from s4m_pipeline.sam.chunks import Chunker
from s4m_pipeline.sam.prompts import Prompts, embed_prompts
from s4m_pipeline.sam.pyramid import image_pyramid
from s4m_pipeline.sam.two_way import ImageSide, final_attention, project_image_side, two_way
from s4m_pipeline.sam.upscale import Skips, fold_skips, make_masks

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)

MaskChoice = Literal["best", "all", "single"]
NUM_MASKS = {"best": 1, "all": 3, "single": 1}


@dataclass(frozen=True, kw_only=True)
class ImageTokens:
    """What the decoder's two-way blocks need of B images, in the compute dtype, on the model's device."""

    tokens_BChw: Tensor
    """(B, C, h, w), the no-memory embedding included, as `SAM2ImagePredictor.get_image_embedding`."""
    image_hw_px: tuple[tuple[int, int], ...]
    """B original sizes: the frame of the prompts."""

    def __len__(self) -> int:
        return len(self.image_hw_px)


@dataclass(frozen=True, kw_only=True)
class ImageEmbeddings(ImageTokens):
    """What the decoder needs besides to make masks."""

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


class BatchedSam:
    """Batched image mode of a SAM 2 network, numerically equal to `SAM2ImagePredictor` per image.

    Takes the network over: it is moved to `device` and, for bf16, converted, except for the prompt encoder
    and the IoU head. Results do not depend on how images and prompts were batched.

    `encoder_batch` images and `decoder_chunk` prompts go through at a time; both are halved when device
    memory runs out. `compile` compiles both with fixed shapes: the last batch and chunk are padded. All
    methods run without gradients, under `torch.inference_mode` too (but not for SD targets: autograd refuses
    inference tensors).
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
        decoder.to(self.dtype)
        decoder.iou_prediction_head.float()
        self.encoder_batches = Chunker(encoder_batch or (16 if on_gpu else 1), "image")
        self.decoder_chunks = Chunker(decoder_chunk or (128 if on_gpu else 4), "prompt")
        self.compiled = compile
        self._run_encoder = (
            torch.compile(self._encode_batch, dynamic=False) if compile else self._encode_batch
        )
        self._run_decoder = (
            torch.compile(self._decode_chunk, dynamic=False) if compile else self._decode_chunk
        )

    @torch.no_grad()
    def encode(self, images: Sequence[Tensor]) -> ImageEmbeddings:
        """Embed B RGB images (3, H, W) of any sizes, uint8 or float in [0, 1], on any device."""
        tokens, stride_8, stride_4 = self._encode(images, levels=3)
        return ImageEmbeddings(
            tokens_BChw=tokens, stride_8=stride_8, stride_4=stride_4, image_hw_px=_sizes(images)
        )

    @torch.no_grad()
    def encode_tokens(self, images: Sequence[Tensor]) -> ImageTokens:
        """The part of `encode` that similarity needs; the finer levels are not computed."""
        (tokens,) = self._encode(images, levels=1)
        return ImageTokens(tokens_BChw=tokens, image_hw_px=_sizes(images))

    @torch.no_grad()
    def decode(
        self, embeddings: ImageEmbeddings, image_index: Tensor, prompts: Prompts, masks: MaskChoice = "best"
    ) -> Decoded:
        """Masks for N prompts; `image_index` (N,) int64 says which of the B images each belongs to.

        `best` keeps, of SAM's three masks, the one of highest predicted IoU; `single` is SAM's own
        single-mask output, which it recommends for unambiguous prompts. N may be 0.
        """
        if image_index.shape != (len(prompts),):
            raise ValueError(f"image_index has shape {tuple(image_index.shape)}, expected ({len(prompts)},)")
        image_index = image_index.to(self.device)
        height, width = (4 * side for side in embeddings.tokens_BChw.shape[-2:])
        num_masks = NUM_MASKS[masks]
        logits = torch.empty((len(prompts), num_masks, height, width), device=self.device)
        iou = torch.empty((len(prompts), num_masks), device=self.device)
        shared = None if prompts.mask_logits is not None else self.image_side(embeddings)
        skips = fold_skips(self.network.sam_mask_decoder, embeddings.stride_8, embeddings.stride_4)

        def run(start: int, stop: int) -> tuple[Tensor, Tensor]:
            index = image_index[start:stop]
            side, prompt_tokens = self.prompt_side(
                embeddings, shared, index, prompts.chunk(start, stop, self.device)
            )
            inputs = (*side, prompt_tokens, *skips.rows(index))
            size = self.decoder_chunks.size if self.compiled else stop - start
            outputs = self._run_decoder(masks, *(_pad_rows(rows, size) for rows in inputs))
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

    def position_encoding(self) -> Tensor:
        """(1, h * w, C), computed in fp32."""
        grid: Tensor = self.network.sam_prompt_encoder.get_dense_pe()
        return grid.flatten(2).transpose(1, 2).to(self.dtype)

    def _project(self, tokens: Tensor, dense: Tensor) -> ImageSide:
        placed = (tokens + dense.to(self.dtype)).flatten(2).transpose(1, 2)
        return project_image_side(
            self.network.sam_mask_decoder.transformer.layers[0], placed, self.position_encoding()
        )

    def _prepare(self, image: Tensor) -> Tensor:
        """Squash to the model's square and normalise, on the device, as SAM's own transform does."""
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
            size = self.encoder_batches.size if self.compiled else len(batch)
            return [rows[: len(batch)] for rows in self._run_encoder(_pad_rows(batch, size), levels)]

        batches = [maps for _, maps in self.encoder_batches.map(run, len(images))]
        return [torch.cat(level) for level in zip(*batches, strict=True)]

    def _encode_batch(self, batch: Tensor, levels: int) -> list[Tensor]:
        """Maps of prepared images, the fine ones projected for the decoder."""
        network, decoder = self.network, self.network.sam_mask_decoder
        # sam2's neck adds up its levels in fp32, so they come out in either type.
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
        """Logits (n, M, 4h, 4w) and predicted IoU (n, M), float32, of prompts with their image's rows."""
        decoder, pe = self.network.sam_mask_decoder, self.position_encoding()
        side = ImageSide(tokens, keys, values, queries)
        out_tokens, image_tokens = two_way(decoder.transformer, side, prompt_tokens, pe)
        out_tokens = final_attention(decoder.transformer, out_tokens, prompt_tokens, image_tokens, pe)
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


def _sizes(images: Sequence[Tensor]) -> tuple[tuple[int, int], ...]:
    return tuple((image.shape[-2], image.shape[-1]) for image in images)


def _choose(masks: MaskChoice, iou: Tensor, kernels: Tensor) -> tuple[Tensor, Tensor]:
    """Keep the outputs asked for, of the single-mask output 0 and the three others, before masks are made."""
    if masks == "single":
        return iou[:, :1], kernels[:, :1]
    iou, kernels = iou[:, 1:], kernels[:, 1:]
    if masks == "all":
        return iou, kernels
    best = iou.argmax(dim=1, keepdim=True)
    return iou.gather(1, best), kernels.gather(1, best[..., None].expand(-1, -1, kernels.shape[-1]))


def _pad_rows(rows: Tensor, size: int) -> Tensor:
    """Repeat the last row until there are `size`."""
    missing = size - len(rows)
    return rows if missing == 0 else torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])])


def full_size_masks(
    logits: Tensor, image_index: Tensor, image_hw_px: Sequence[tuple[int, int]], max_px: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Upsample chosen masks to their images' own sizes and threshold them, on the device.

    `logits` (N, 4h, 4w) float, `image_index` (N,) int64. Yields `(rows, masks)`: `rows` (n,) int64 into
    `logits`, all of one image, and `masks` (n, H, W) bool. A piece has at most `max_px` pixels (one mask may
    exceed it), so memory stays bounded for any N: by default 2^26 (256 MiB in fp32), on the CPU 2^22, where
    small pieces stay in its cache and are 2.5 times faster.
    """
    max_px = max_px or (1 << 22 if logits.device.type == "cpu" else 1 << 26)
    for image, size in enumerate(image_hw_px):
        of_image = (image_index == image).nonzero()[:, 0]
        step = max(1, max_px // (size[0] * size[1]))
        for start in range(0, len(of_image), step):
            rows = of_image[start : start + step]
            full = F.interpolate(logits[rows, None], size, mode="bilinear", align_corners=False)[:, 0]
            yield rows, full > 0
