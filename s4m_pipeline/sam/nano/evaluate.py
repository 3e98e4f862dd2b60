"""Measure a small SAM 2 against its bars: `python -m s4m_pipeline.sam.nano.evaluate [--picture FILE]`."""

import argparse
import sys
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

from s4m_pipeline.sam import BatchedSam, Prompts, load_sam
from s4m_pipeline.sam.nano.episodes import box_corners, points_inside
from s4m_pipeline.sam.nano.exam import SEED_SPACE, Picture, exam

PROMPT_KINDS = ("1 point", "3 points", "box")
MIN_RANK_CORRELATION = 0.6
BARS: dict[str, dict[str, float]] = {
    "demo": {"1 point": 0.79, "3 points": 0.86, "box": 0.89},
    "demo, gray": {"3 points": 0.80},
    "demo, inverted": {"3 points": 0.80},
    "demo, contrast 0.2": {"3 points": 0.80},
    "demo, noise sd 20": {"3 points": 0.80},
    "demo, blur 1.5 px": {"3 points": 0.80},
    "coins": {"3 points": 0.80, "box": 0.85},
    "dim cells": {"3 points": 0.78, "box": 0.82},
    "randomized": {},
}
"""Smallest mean IoU by set of pictures and kind of prompt."""
SHOWN = ("demo", "demo", "demo, gray", "demo, contrast 0.2", "coins", "dim cells")
"""Set of each row of the drawn picture."""


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


def evaluate(sam: BatchedSam, pictures: list[Picture], seed: int = 0) -> dict[str, PromptQuality]:
    """Quality on the whole objects of the pictures, by prompt kind."""
    rng = np.random.default_rng([SEED_SPACE, seed])
    measured = [_measure(sam, picture, rng) for picture in pictures]
    return {kind: _summarize([by_kind[kind] for by_kind in measured]) for kind in PROMPT_KINDS}


def _measure(
    sam: BatchedSam, picture: Picture, rng: np.random.Generator
) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """By prompt kind: predicted and true IoU of the three masks of each object, both (N, 3)."""
    truth = torch.from_numpy(picture.masks)[:, None]
    embeddings = sam.encode([_to_tensor(picture.image)])
    image_index = torch.zeros(len(truth), dtype=torch.int64)
    measured = {}
    for kind in PROMPT_KINDS:
        decoded = sam.decode(embeddings, image_index, make_prompts(kind, picture.masks, rng), masks="all")
        size = picture.masks.shape[1:]
        full = F.interpolate(decoded.logits.cpu(), size, mode="bilinear", align_corners=False) > 0
        iou = (full & truth).sum((2, 3)) / (full | truth).sum((2, 3)).clamp(min=1)
        measured[kind] = (decoded.iou.cpu().numpy(), iou.numpy())
    return measured


def _summarize(measured: list[tuple[NDArray[np.float32], NDArray[np.float32]]]) -> PromptQuality:
    predicted, iou = (np.concatenate(arrays) for arrays in zip(*measured, strict=True))
    rows, chosen = np.arange(len(iou)), predicted.argmax(1)
    return PromptQuality(
        mean_iou=float(iou[rows, chosen].mean()),
        best_iou=float(iou.max(1).mean()),
        share_above_half=float((iou[rows, chosen] > 0.5).mean()),
        rank_correlation=float(spearmanr(predicted.ravel(), iou.ravel()).statistic),
        chosen_rank_correlation=float(spearmanr(predicted[rows, chosen], iou[rows, chosen]).statistic),
    )


def make_prompts(kind: str, masks: NDArray[np.bool_], rng: np.random.Generator) -> Prompts:
    """Prompts of one of `PROMPT_KINDS` for masks (N, H, W): uniform points inside, or the tight box."""
    if kind == "box":
        return Prompts(boxes_xyxy_px=torch.from_numpy(np.stack([box_corners(m).ravel() for m in masks])))
    count = int(kind.split()[0])
    # The last step from pixel coordinates to SAM's frame: integers are pixel centers there.
    points = np.stack([points_inside(rng, mask, count) for mask in masks]) - 0.5
    return Prompts(points_xy_px=torch.from_numpy(points))


def draw_picture(sam: BatchedSam, path: Path, pictures: list[Picture], seed: int = 0) -> None:
    """A PNG with a row per picture: the image and true outlines, then the masks for each prompt kind.

    Args:
        pictures: all of one size.
    """
    rows = []
    for picture in pictures:
        masks = picture.masks
        embeddings = sam.encode([_to_tensor(picture.image)])
        panels = [_overlay(picture.image, masks, None)]
        for kind in PROMPT_KINDS:
            prompts = make_prompts(kind, masks, np.random.default_rng([SEED_SPACE, seed]))
            decoded = sam.decode(embeddings, torch.zeros(len(masks), dtype=torch.int64), prompts)
            full = F.interpolate(decoded.logits, masks.shape[1:], mode="bilinear", align_corners=False)
            panels.append(_overlay(picture.image, full[:, 0].cpu().numpy() > 0, prompts))
        rows.append(np.hstack(panels))
    cv2.imwrite(str(path), np.vstack(rows)[..., ::-1])


def _overlay(
    image: NDArray[np.uint8], masks: NDArray[np.bool_], prompts: Prompts | None
) -> NDArray[np.uint8]:
    zoom = 2
    canvas = np.asarray(cv2.resize(image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_NEAREST), np.uint8)
    for k, mask in enumerate(masks):
        color = tuple(int(v) for v in np.random.default_rng(k).integers(80, 255, 3))
        large = cv2.resize(mask.astype(np.uint8), None, fx=zoom, fy=zoom, interpolation=cv2.INTER_NEAREST)
        canvas[large > 0] = (0.55 * canvas[large > 0] + 0.45 * np.array(color)).astype(np.uint8)
        contours, _ = cv2.findContours(large, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(canvas, contours, -1, color, 1)
        if prompts is not None and prompts.points_xy_px is not None:
            for x, y in prompts.points_xy_px[k].tolist():
                cv2.circle(canvas, (int((x + 0.5) * zoom), int((y + 0.5) * zoom)), 2, (255, 255, 255), -1)
        if prompts is not None and prompts.boxes_xyxy_px is not None:
            x0, y0, x1, y1 = (int(v * zoom) for v in prompts.boxes_xyxy_px[k].tolist())
            cv2.rectangle(canvas, (x0, y0), (x1, y1), (255, 255, 255), 1)
    return canvas


def _to_tensor(image: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def failures(results: dict[str, dict[str, PromptQuality]]) -> list[str]:
    """What falls short of `BARS`, one line each."""
    lines = []
    for name, by_kind in results.items():
        for kind, quality in by_kind.items():
            bar = BARS[name].get(kind, 0.0)
            if quality.mean_iou < bar:
                lines.append(f"{name}, {kind}: mean IoU {quality.mean_iou:.3f}, expected at least {bar:.2f}")
            if BARS[name] and quality.rank_correlation < MIN_RANK_CORRELATION:
                lines.append(
                    f"{name}, {kind}: rank correlation {quality.rank_correlation:.2f},"
                    f" expected at least {MIN_RANK_CORRELATION}"
                )
    return lines


def print_table(results: dict[str, dict[str, PromptQuality]]) -> None:
    """Show the figures of `evaluate` of each set of pictures."""
    table = Table(title="Whole objects on held-out pictures")
    for heading in (
        "pictures",
        "prompt",
        "mean IoU",
        "bar",
        "best of three",
        "IoU > 0.5",
        "rank corr.",
        "of chosen",
    ):
        table.add_column(heading, justify="left" if heading in ("pictures", "prompt") else "right")
    for name, by_kind in results.items():
        for kind, quality in by_kind.items():
            bar = BARS[name].get(kind)
            table.add_row(
                name,
                kind,
                f"{quality.mean_iou:.3f}",
                "" if bar is None else f"{bar:.2f}",
                f"{quality.best_iou:.3f}",
                f"{quality.share_above_half:.3f}",
                f"{quality.rank_correlation:.2f}",
                f"{quality.chosen_rank_correlation:.2f}",
            )
    Console(width=110).print(table)


def main() -> int:
    """Print the table; 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description="Measure a SAM 2 on held-out pictures.")
    parser.add_argument("--model", default="nano", help="as in a config's sam.model")
    parser.add_argument("--config", help="the YAML of a local file, as in a config's sam.config")
    parser.add_argument("--scenes", type=int, default=200, help="pictures of each drawn set; 6 or more")
    parser.add_argument("--picture", type=Path, help="also draw masks for each prompt kind to this PNG")
    arguments = parser.parse_args()
    sam = BatchedSam(load_sam(arguments.model, config=arguments.config).network, decoder_chunk=64)
    sets = exam(arguments.scenes)
    results = {name: evaluate(sam, pictures) for name, pictures in sets.items()}
    print_table(results)
    if arguments.picture:
        shown = [sets[name][number] for number, name in enumerate(SHOWN)]
        draw_picture(sam, arguments.picture, shown)
    missed = failures(results)
    print("\n".join(missed) or "All bars hold.")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
