"""A picture to look at before hours are spent: photos, the teacher's masks, and the refined ones beside."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from s4m_pipeline.refine.build import build_labeller, networks_on_device, photo_files
from s4m_pipeline.refine.inputs import RefineInputs
from s4m_pipeline.refine.labeller import Labelled
from s4m_pipeline.refine.photos import batches_by_size, load_photos, readable

SIDE_PX = 384
GAP_PX = 8
TITLE_PX = 16
COLOURS = ((230, 60, 50), (40, 130, 230), (50, 180, 80), (240, 170, 30), (160, 70, 200), (30, 190, 190))


def preview_labels(inputs: RefineInputs, generation: int, count: int, path: Path) -> Path:
    """Draw the labels of images spread over the list, as in a generation of that number."""
    images = inputs.unlabeled.images
    files = photo_files(inputs, images[:: max(1, len(images) // count)][:count])
    with networks_on_device(inputs) as networks:
        labeller = build_labeller(inputs, networks, generation)
        photos = readable(load_photos(files, 0, pin_memory=False), lambda image: None)
        labelled = [
            image
            for batch in batches_by_size(photos, labeller.batch_size, labeller.divisor_px)
            for image in labeller.label(batch)
        ]
        draw_preview(labelled, inputs.labelled.class_names, path)
    return path


def draw_preview(images: Sequence[Labelled], classes: Sequence[str], path: Path) -> None:
    """Write a PNG with a row for each image: photo, teacher's masks with scores, SAM's with predicted IoU."""
    rows = [_row(image, classes) for image in images]
    titles = ["photo", "teacher: class and score", "refined: IoU as SAM predicts it"]
    width = max(sum(tile.width + GAP_PX for tile in row) for row in rows)
    height = TITLE_PX + sum(row[0].height + GAP_PX for row in rows)
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    y = TITLE_PX
    for number, row in enumerate(rows):
        x = 0
        for tile, title in zip(row, titles, strict=False):
            if number == 0:
                draw.text((x + 2, 2), title, "black")
            sheet.paste(tile, (x, y))
            x += tile.width + GAP_PX
        y += row[0].height + GAP_PX
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def _row(image: Labelled, classes: Sequence[str]) -> list[Image.Image]:
    height, width = image.kept.frame.image_hw_px
    scale = SIDE_PX / max(height, width)
    size_hw = (round(height * scale), round(width * scale))
    photo = image.photo.pixels.permute(1, 2, 0).numpy()
    enlarged = np.asarray(Image.fromarray(photo).resize(size_hw[::-1], Image.Resampling.BILINEAR))
    names = [classes[label] for label in image.kept.label.tolist()]
    scores = [f"{name} {score:.2f}" for name, score in zip(names, image.kept.score.tolist(), strict=True)]
    tiles = [Image.fromarray(enlarged), _overlay(enlarged, image.teacher_masks, scores)]
    if image.refined is not None:
        texts = [f"{iou:.2f}" for iou in image.refined.predicted_iou.tolist()]
        tiles.append(_overlay(enlarged, image.refined.masks, texts))
    return tiles


def _overlay(photo: np.ndarray, masks: Tensor, texts: Sequence[str]) -> Image.Image:
    """Tint and outline each mask, the most confident one on top, and write its text at its first pixel."""
    canvas = photo.astype(np.float32)
    places = []
    order = list(enumerate(zip(masks, texts, strict=True)))
    for number, (mask, text) in reversed(order):
        inside = F.interpolate(mask[None, None].float(), photo.shape[:2])[0, 0].cpu().numpy() > 0
        colour = np.array(COLOURS[number % len(COLOURS)], np.float32)
        canvas[inside] = 0.55 * canvas[inside] + 0.45 * colour
        canvas[_outline(inside)] = colour
        if inside.any():
            y, x = np.argwhere(inside)[0]
            places.append((int(x), int(y), text))
    tile = Image.fromarray(canvas.round().astype(np.uint8))
    draw = ImageDraw.Draw(tile)
    for x, y, text in places:
        anchor = (min(x, tile.width - 70), max(y - 10, 0))
        draw.text(anchor, text, "white", stroke_width=1, stroke_fill="black")
    return tile


def _outline(inside: np.ndarray) -> np.ndarray:
    """The pixels of a mask that have a neighbour outside of it."""
    padded = np.pad(inside, 1)
    core = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inside & ~core
