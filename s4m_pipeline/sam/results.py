"""What SAM 2 computes for many images and prompts at once; axes as in `batched`."""

from dataclasses import dataclass

from torch import Tensor


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
