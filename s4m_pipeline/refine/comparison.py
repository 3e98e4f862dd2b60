"""Kinds of masks compared on the validation images: counts, figures with intervals, and a table of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from s4m_pipeline.config.groups import PromptType
from s4m_pipeline.evaluation.intervals import Interval, interval, percentage
from s4m_pipeline.evaluation.pseudo_label_quality import ClassTallies
from s4m_pipeline.refine.samples import Samples

CALIBRATED: Literal["calibrated"] = "calibrated"
MaskKind = PromptType | Literal["calibrated"]
"""A kind of prompt, or the masks that calibrated acceptance chooses; None stands for the teacher's own."""


@dataclass(frozen=True, eq=False)
class ValidationCounts:
    """What was counted on I validation images with C classes, for each kind of masks.

    Attributes:
        image_ids: int64 (I,), rising.
        by_prompt: int64 (I, C, 4) for each kind: predictions, objects, matches and the sum of the matches'
            IoU in millionths, as in `Tally`.
        samples: labels with both masks measured, by prompt; none unless acceptance is to be calibrated.
    """

    image_ids: NDArray[np.int64]
    by_prompt: Mapping[MaskKind | None, NDArray[np.int64]]
    samples: Mapping[PromptType, Samples] = field(default_factory=dict)

    def __add__(self, other: "ValidationCounts") -> "ValidationCounts":
        ids = np.concatenate([self.image_ids, other.image_ids])
        order = np.argsort(ids)  # resampled images then do not depend on the number of shards
        both = {
            kind: np.concatenate([counts, other.by_prompt[kind]])[order]
            for kind, counts in self.by_prompt.items()
        }
        samples = {kind: Samples.join([one, other.samples[kind]]) for kind, one in self.samples.items()}
        return ValidationCounts(ids[order], both, samples)

    def with_calibrated(
        self, prompt: PromptType, use_raw: NDArray[np.bool_], ignored: NDArray[np.bool_]
    ) -> "ValidationCounts":
        """Also count the labels of a prompt if (M,) of its samples use the teacher's mask, or are ignored."""
        counts = self.by_prompt[prompt].copy()
        found = self.samples[prompt].tallies(use_raw, ignored, self.image_ids, counts.shape[1])
        counts[..., [0, 2, 3]] = found
        return replace(self, by_prompt={**self.by_prompt, CALIBRATED: counts})

    def tallies(self, prompt: MaskKind | None) -> ClassTallies:
        """The sums over all images."""
        return ClassTallies.from_rows(self.by_prompt[prompt].sum(axis=0).tolist())

    def pq_difference(self, prompt: MaskKind | None) -> Interval:
        """PQ with these masks less that of the teacher's own, in points, paired by image."""

        def pq(kind: MaskKind | None) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
            predictions, objects, _, iou_millionths = self.by_prompt[kind].sum(axis=1).T
            return percentage(iou_millionths / 1e6, (predictions + objects) / 2)

        refined, own = pq(prompt), pq(None)
        return interval(lambda weights: refined(weights) - own(weights), len(self.image_ids))

    def figures(self, prompt: MaskKind | None, classes: Sequence[str]) -> dict[str, Any]:
        """PQ, SQ, CA and recall in percent, overall and by class, and numbers; None: nothing to divide by."""
        tallies = self.tallies(prompt)
        total = tallies.total
        named = {
            "PQ": total.panoptic_quality,
            "SQ": total.segmentation_quality,
            "CA": total.class_accuracy,
            "recall": total.recall,
        }
        for name, tally in zip(classes, tallies.by_class, strict=True):
            named |= {
                f"PQ, {name}": tally.panoptic_quality,
                f"SQ, {name}": tally.segmentation_quality,
                f"CA, {name}": tally.class_accuracy,
                f"recall, {name}": tally.recall,
            }
        return {
            "images": len(self.image_ids),
            "instances": total.predictions,
            "objects": total.objects,
            **{name: _rounded(value) for name, value in named.items()},
        }

    def compared(self, classes: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Figures by kind of masks (`none`: the teacher's own); `PQ difference` is [value, low, high]."""
        table: dict[str, dict[str, Any]] = {}
        for prompt in self.by_prompt:
            table[prompt or "none"] = self.figures(prompt, classes)
            if prompt is not None:
                found = self.pq_difference(prompt)
                bounds = [_rounded(value) for value in (found.estimate, found.low, found.high)]
                table[prompt]["PQ difference"] = bounds
        return table


def comparison_tables(masks: Mapping[str, Mapping[str, Any]], taken: str) -> list[Table]:
    """What `ValidationCounts.compared` gave, as tables: overall, and PQ by class if there are several.

    Args:
        taken: the kind of masks that the generation has.
    """
    images, objects = (next(iter(masks.values()))[name] for name in ("images", "objects"))
    title = f"Masks on {images} validation images with {objects} objects, percent"
    overall = Table("masks", title=title)
    for heading in ("PQ", "PQ against none [95 %]", "SQ", "CA", "recall", "instances"):
        overall.add_column(heading, justify="right")
    for kind, figures in masks.items():
        cells = (_cell(figures.get(name)) for name in ("SQ", "CA", "recall"))
        name = f"{kind} (taken)" if kind == taken else kind
        difference = difference_text(figures.get("PQ difference"))
        overall.add_row(name, _cell(figures["PQ"]), difference, *cells, f"{figures['instances']}")
    classes = [name.removeprefix("PQ, ") for name in masks["none"] if name.startswith("PQ, ")]
    if len(classes) < 2:
        return [overall]
    by_class = Table("PQ by class")
    for kind in masks:
        by_class.add_column(kind, justify="right")
    for label in classes:
        by_class.add_row(label, *(_cell(figures[f"PQ, {label}"]) for figures in masks.values()))
    return [overall, by_class]


def difference_text(difference: Sequence[float | None] | None) -> str:
    """A stored `PQ difference`: `+1.3 [-0.4, +3.1]`."""
    if difference is None or difference[0] is None:
        return "-"
    value, low, high = difference
    return f"{value:+.1f}" + ("" if low is None or high is None else f" [{low:+.1f}, {high:+.1f}]")


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _rounded(value: float | None) -> float | None:
    return None if value is None or np.isnan(value) else round(value, 2)
