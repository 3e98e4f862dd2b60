"""Prompts for N instances, in pixels of the image of each instance."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from sam2.modeling.sam.prompt_encoder import PromptEncoder
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """One prompt per instance: points, box, mask, or a combination.

    Coordinates: x to the right, y down, in pixels of the *original* image, (0, 0) the top left pixel, as in
    `SAM2ImagePredictor`, which maps x to x S / W + 0.5 of its square input of side S (half a pixel of the
    square, not of the image). All instances have the same number K of points. Padding points (label -1) would
    change the result, so repeat points for an instance with fewer.
    """

    points_xy_px: Tensor | None = None
    """(N, K, 2) float."""
    point_labels: Tensor | None = None
    """(N, K) int, 1 for foreground, 0 for background; by default all 1."""
    boxes_xyxy_px: Tensor | None = None
    """(N, 4) float: left, top, right, bottom."""
    mask_logits: Tensor | None = None
    """(N, 4h, 4w) float logits at the decoder's output size, as `decode` returns them."""

    def __post_init__(self) -> None:
        given = [t for t in (self.points_xy_px, self.boxes_xyxy_px, self.mask_logits) if t is not None]
        if not given:
            raise ValueError("expected points, boxes or masks, got none")
        if len({len(t) for t in given}) > 1:
            raise ValueError(f"prompts for different numbers of instances: {[len(t) for t in given]}")

    def __len__(self) -> int:
        for prompt in (self.points_xy_px, self.boxes_xyxy_px, self.mask_logits):
            if prompt is not None:
                return len(prompt)
        raise AssertionError("checked in __post_init__")

    @classmethod
    def cat(cls, parts: Sequence["Prompts"]) -> "Prompts":
        """Concatenate prompts of the same kind; they may have 0 rows."""

        def joined(name: str) -> Tensor | None:
            tensors = [getattr(part, name) for part in parts]
            return None if tensors[0] is None else torch.cat(tensors)

        return cls(**{item.name: joined(item.name) for item in fields(cls)})

    def chunk(self, start: int, stop: int, device: torch.device) -> "Prompts":
        """Rows `[start, stop)`, on `device`."""

        def rows(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor[start:stop].to(device)

        return Prompts(
            points_xy_px=rows(self.points_xy_px),
            point_labels=rows(self.point_labels),
            boxes_xyxy_px=rows(self.boxes_xyxy_px),
            mask_logits=rows(self.mask_logits),
        )


def embed_prompts(
    encoder: PromptEncoder, prompts: Prompts, image_wh_px: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Embed prompts with SAM's prompt encoder, in fp32: bf16 rounds coordinates by whole pixels.

    `image_wh_px` (N, 2) is the size of each prompt's image. Returns sparse embeddings (N, T, C), including
    the padding token as in `SAM2ImagePredictor`, and dense ones (N, C, h, w), or None without mask prompts.
    """
    input_height_px, input_width_px = encoder.input_image_size
    input_wh_px = torch.tensor(
        [input_width_px, input_height_px], dtype=torch.float32, device=image_wh_px.device
    )
    coords, labels = [], []
    if prompts.boxes_xyxy_px is not None:
        corners = prompts.boxes_xyxy_px.float().reshape(-1, 2, 2)
        coords.append(corners)
        labels.append(torch.tensor([[2, 3]], device=corners.device).expand(len(corners), 2))
    if prompts.points_xy_px is not None:
        points = prompts.points_xy_px.float()
        given = prompts.point_labels
        coords.append(points)
        labels.append(
            torch.ones(points.shape[:2], dtype=torch.int64, device=points.device) if given is None else given
        )
    points_and_labels = None
    if coords:
        points_and_labels = (
            torch.cat(coords, dim=1) / image_wh_px[:, None] * input_wh_px,
            torch.cat(labels, dim=1),
        )
    masks = prompts.mask_logits
    sparse, dense = encoder(
        points=points_and_labels, boxes=None, masks=None if masks is None else masks.float()[:, None]
    )
    return sparse, None if masks is None else dense
