"""Measure a small SAM 2 on held-out scenes: `python -m s4m_pipeline.sam.nano.evaluate [--picture FILE]`."""

import argparse
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from s4m_pipeline.data.scenes.render import Scene, SceneStyle, draw_scene
from s4m_pipeline.data.scenes.shapes import DEMO_FAMILIES
from s4m_pipeline.sam import BatchedSam, Prompts, load_sam
from s4m_pipeline.sam.nano.episodes import points_inside, tight_box

EVALUATION_SEED_SPACE = 9  # training draws from [seed, scene], the embedded data set from space 4
PROMPT_KINDS = ("1 point", "3 points", "box")


@dataclass(frozen=True)
class PromptQuality:
    """How well whole objects are segmented with one kind of prompt; IoU in [0, 1]."""

    mean_iou: float
    """Of the mask with the highest predicted IoU, as refinement chooses it."""
    best_iou: float
    """Of the best of the three masks."""
    share_above_half: float
    """Share of objects whose chosen mask has an IoU above one half."""
    rank_correlation: float
    """Spearman correlation of predicted and true IoU over all three masks of every prompt."""
    chosen_rank_correlation: float
    """The same over the chosen masks only, whose true IoU varies little."""


def evaluate(sam: BatchedSam, num_scenes: int = 200, seed: int = 0) -> dict[str, PromptQuality]:
    """Quality on the whole objects of held-out scenes of the embedded data's kind, by prompt kind."""
    scenes = held_out_scenes(num_scenes, seed)
    truths = np.stack([item.mask for scene in scenes for item in scene.objects])
    image_index = torch.tensor([k for k, scene in enumerate(scenes) for _ in scene.objects])
    embeddings = sam.encode([_to_tensor(scene.image) for scene in scenes])
    results = {}
    for kind in PROMPT_KINDS:
        rng = np.random.default_rng([EVALUATION_SEED_SPACE, seed])
        decoded = sam.decode(embeddings, image_index, make_prompts(kind, truths, rng), masks="all")
        size = truths.shape[1:]
        full = F.interpolate(decoded.logits.cpu(), size, mode="bilinear", align_corners=False) > 0
        truth = torch.from_numpy(truths)[:, None]
        iou = ((full & truth).sum((2, 3)) / (full | truth).sum((2, 3)).clamp(min=1)).numpy()
        predicted = decoded.iou.cpu().numpy()
        rows, chosen = np.arange(len(iou)), predicted.argmax(1)
        results[kind] = PromptQuality(
            mean_iou=float(iou[rows, chosen].mean()),
            best_iou=float(iou.max(1).mean()),
            share_above_half=float((iou[rows, chosen] > 0.5).mean()),
            rank_correlation=float(spearmanr(predicted.ravel(), iou.ravel()).statistic),
            chosen_rank_correlation=float(spearmanr(predicted[rows, chosen], iou[rows, chosen]).statistic),
        )
    return results


def held_out_scenes(count: int, seed: int) -> list[Scene]:
    """Scenes that neither the nano model nor any network of the project was trained on."""
    return [
        draw_scene(np.random.default_rng([EVALUATION_SEED_SPACE, seed, index]), DEMO_FAMILIES, SceneStyle())
        for index in range(count)
    ]


def make_prompts(kind: str, masks: NDArray[np.bool_], rng: np.random.Generator) -> Prompts:
    """Prompts of one of `PROMPT_KINDS` for masks (N, H, W): uniform points inside, or the tight box."""
    if kind == "box":
        return Prompts(boxes_xyxy_px=torch.from_numpy(np.stack([tight_box(m).ravel() for m in masks])))
    count = int(kind.split()[0])
    # The last step from pixel coordinates to SAM's frame: integers are pixel centres there.
    points = np.stack([points_inside(rng, mask, count) for mask in masks]) - 0.5
    return Prompts(points_xy_px=torch.from_numpy(points))


def draw_picture(sam: BatchedSam, path: Path, num_scenes: int = 6, seed: int = 0) -> None:
    """A PNG with a row per scene: the image and true outlines, then the masks for each prompt kind."""
    rows = []
    for scene in held_out_scenes(num_scenes, seed):
        masks = np.stack([item.mask for item in scene.objects])
        embeddings = sam.encode([_to_tensor(scene.image)])
        panels = [_overlay(scene.image, masks, None)]
        for kind in PROMPT_KINDS:
            prompts = make_prompts(kind, masks, np.random.default_rng([EVALUATION_SEED_SPACE, seed]))
            decoded = sam.decode(embeddings, torch.zeros(len(masks), dtype=torch.int64), prompts)
            full = F.interpolate(decoded.logits, masks.shape[1:], mode="bilinear", align_corners=False)
            panels.append(_overlay(scene.image, full[:, 0].cpu().numpy() > 0, prompts))
        rows.append(np.hstack(panels))
    cv2.imwrite(str(path), np.vstack(rows)[..., ::-1])


def _overlay(
    image: NDArray[np.uint8], masks: NDArray[np.bool_], prompts: Prompts | None
) -> NDArray[np.uint8]:
    zoom = 2
    canvas = np.asarray(cv2.resize(image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_NEAREST), np.uint8)
    for k, mask in enumerate(masks):
        colour = tuple(int(v) for v in np.random.default_rng(k).integers(80, 255, 3))
        large = cv2.resize(mask.astype(np.uint8), None, fx=zoom, fy=zoom, interpolation=cv2.INTER_NEAREST)
        canvas[large > 0] = (0.55 * canvas[large > 0] + 0.45 * np.array(colour)).astype(np.uint8)
        contours, _ = cv2.findContours(large, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(canvas, contours, -1, colour, 1)
        if prompts is not None and prompts.points_xy_px is not None:
            for x, y in prompts.points_xy_px[k].tolist():
                cv2.circle(canvas, (int((x + 0.5) * zoom), int((y + 0.5) * zoom)), 2, (255, 255, 255), -1)
        if prompts is not None and prompts.boxes_xyxy_px is not None:
            x0, y0, x1, y1 = (int(v * zoom) for v in prompts.boxes_xyxy_px[k].tolist())
            cv2.rectangle(canvas, (x0, y0), (x1, y1), (255, 255, 255), 1)
    return canvas


def _to_tensor(image: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def print_table(results: dict[str, PromptQuality]) -> None:
    """Show the figures of `evaluate`."""
    table = Table(title="Whole objects on held-out scenes")
    for heading in ("prompt", "mean IoU", "best of three", "IoU > 0.5", "rank corr.", "of chosen"):
        table.add_column(heading, justify="left" if heading == "prompt" else "right")
    for kind, quality in results.items():
        table.add_row(
            kind,
            f"{quality.mean_iou:.3f}",
            f"{quality.best_iou:.3f}",
            f"{quality.share_above_half:.3f}",
            f"{quality.rank_correlation:.2f}",
            f"{quality.chosen_rank_correlation:.2f}",
        )
    Console().print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure a SAM 2 on held-out procedural scenes.")
    parser.add_argument("--model", default="nano", help="as in a config's sam.model")
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--picture", type=Path, help="also draw masks for each prompt kind to this PNG")
    arguments = parser.parse_args()
    batched = BatchedSam(load_sam(arguments.model).network)
    print_table(evaluate(batched, arguments.scenes))
    if arguments.picture:
        draw_picture(batched, arguments.picture)
