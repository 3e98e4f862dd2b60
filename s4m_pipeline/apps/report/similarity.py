"""Similarity maps of SAM 2 and of networks for given points (Figure 7 of the paper), and their picture.

Axes: P points, h x w SAM's token grid.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch
from mmcv.transforms import Compose
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from s4m_pipeline.models.mask2former import InstanceMask2Former
from s4m_pipeline.models.structural import resample_to_grid, similarity_rows
from s4m_pipeline.sam import BatchedSam
from s4m_pipeline.sam import similarity_rows as sam_similarity_rows
from s4m_pipeline.sam.tokens import SdTarget

Pixels = npt.NDArray[np.uint8]

PANEL_PX = 420
"""Longer side of a panel."""
GAP_PX = 14
BAR_PX = 16
COLORMAP = cv2.COLORMAP_VIRIDIS


class SamMaps(NamedTuple):
    """SAM's similarity to each point."""

    maps_Phw: Tensor
    """(P, h, w) float32 cosine similarity."""
    index_P: Tensor
    """(P,) int64 index of each point's token."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """The maps of one network, with a title."""

    title: str
    subtitle: str
    maps_Phw: Tensor
    """(P, h, w) float32 cosine similarity of all tokens to each point's token, on the CPU."""


def sam_maps(
    sam: BatchedSam, image: Pixels, points_xy_px: Sequence[tuple[float, float]], target: SdTarget
) -> SamMaps:
    """Similarity of SAM's features of an RGB image (H, W, 3) to points in its pixels."""
    embeddings = sam.encode_tokens([torch.from_numpy(image).permute(2, 0, 1)])
    rows, index = sam_similarity_rows(sam, embeddings, torch.tensor([points_xy_px]).float(), target)
    grid_hw = embeddings.tokens_BChw.shape[-2:]
    return SamMaps(rows[0].reshape(-1, *grid_hw).cpu(), index[0])


@torch.inference_mode()
def network_maps(
    network: InstanceMask2Former, pipeline: Sequence[Mapping[str, Any]], image: Path, sam: SamMaps
) -> Tensor:
    """(P, h, w) float32 similarity of a network's per-pixel embedding to the tokens of SAM's points.

    Args:
        network: on its device, in eval mode.
        pipeline: the config's test pipeline.
    """
    packed = Compose(list(pipeline))({"img_path": str(image), "img_id": 0})
    batch = network.data_preprocessor({name: [value] for name, value in packed.items()}, training=False)
    inputs, (sample,) = batch["inputs"], batch["data_samples"]
    embedding_BCHW, _ = network.panoptic_head.pixel_decoder(network.extract_feat(inputs))
    grid_hw = (sam.maps_Phw.shape[-2], sam.maps_Phw.shape[-1])
    on_grid = resample_to_grid(embedding_BCHW, [sample.img_shape[:2]], inputs.shape[-2:], grid_hw)
    rows = similarity_rows(on_grid.flatten(2), sam.index_P[None].to(on_grid.device))
    return rows.reshape(-1, *grid_hw).cpu()


def draw(
    image: Pixels, points_xy_px: Sequence[tuple[float, float]], columns: Sequence[Column]
) -> Image.Image:
    """A row for each point: the image, then the map of each network, all with the same color scale.

    Args:
        image: (H, W, 3) RGB.
        points_xy_px: P points in its pixels; integers are pixel centers.
    """
    scale = PANEL_PX / max(image.shape[:2])
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    lowest = min(0.0, *(float(column.maps_Phw.min()) for column in columns))
    title_px = 52
    canvas = Image.new(
        "RGB",
        (
            GAP_PX + (len(columns) + 1) * (width + GAP_PX) + BAR_PX + 60,
            title_px + len(points_xy_px) * (height + GAP_PX),
        ),
        "white",
    )
    titles = [("image", f"{image.shape[1]} x {image.shape[0]} px")]
    titles += [(column.title, column.subtitle) for column in columns]
    for column, (title, subtitle) in enumerate(titles):
        _write_title(canvas, GAP_PX + column * (width + GAP_PX), width, title, subtitle)
    enlarged = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
    for row, (x, y) in enumerate(points_xy_px):
        top = title_px + row * (height + GAP_PX)
        panels = [enlarged, *(_colored(column.maps_Phw[row], lowest, (width, height)) for column in columns)]
        for index, panel in enumerate(panels):
            left = GAP_PX + index * (width + GAP_PX)
            canvas.paste(Image.fromarray(panel), (left, top))
            _mark(canvas, left + (x + 0.5) * scale, top + (y + 0.5) * scale)
        _draw_scale(canvas, GAP_PX + len(panels) * (width + GAP_PX), top, height, lowest)
    return canvas


def _colored(map_hw: Tensor, lowest: float, size_wh: tuple[int, int]) -> Pixels:
    level = (map_hw.numpy() - lowest) / (1 - lowest)
    return _colors(cv2.resize(level, size_wh, interpolation=cv2.INTER_LINEAR))


def _colors(level: npt.NDArray[Any]) -> Pixels:
    """Map values (H, W) in [0, 1] to RGB (H, W, 3)."""
    colored = cv2.applyColorMap((level.clip(0, 1) * 255).round().astype(np.uint8), COLORMAP)
    return np.ascontiguousarray(colored[..., ::-1], dtype=np.uint8)


def _write_title(canvas: Image.Image, left: int, width: int, title: str, subtitle: str) -> None:
    pen = ImageDraw.Draw(canvas)
    pen.text((left, 8), title, fill="black", font=ImageFont.load_default(17))
    small = ImageFont.load_default(13)
    while small.getlength(subtitle) > width:  # keep the end, the informative part of a path
        subtitle = "…" + subtitle[2:]
    pen.text((left, 30), subtitle, fill="dimgray", font=small)


def _mark(canvas: Image.Image, x: float, y: float) -> None:
    pen = ImageDraw.Draw(canvas)
    for radius, color in ((7, "black"), (6, "white"), (4, "red")):
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)


def _draw_scale(canvas: Image.Image, left: int, top: int, height: int, lowest: float) -> None:
    ramp = np.repeat(np.linspace(1, 0, height)[:, None], BAR_PX, axis=1)
    canvas.paste(Image.fromarray(_colors(ramp)), (left, top))
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(13)
    for value in {1.0, (1 + lowest) / 2, lowest}:
        y = top + (1 - value) / (1 - lowest) * (height - 1)
        pen.text((left + BAR_PX + 6, y), f"{value:.2f}", fill="black", font=font, anchor="lm")
