"""The pseudo-labels of one image, before they are stored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from s4m_cache.masks import Box, Masks
from s4m_cache.records import ImageLabels, Instances
from s4m_pipeline.config.groups import PromptType
from s4m_pipeline.data.tiles import Views, in_image, merge


@dataclass(frozen=True, kw_only=True, eq=False)
class Labels:
    """The pseudo-labels of one image, N by falling score, on the CPU."""

    image_id: int
    image_hw_px: tuple[int, int]
    label: NDArray[np.int64]
    score: NDArray[np.float32]
    teacher_masks: Masks
    refined_masks: Masks
    """The teacher's own where SAM was not asked."""
    predicted_iou: NDArray[np.float32]
    """SAM's estimate, or where SAM was not asked the mean probability of the teacher's mask inside it."""

    def record(self) -> ImageLabels:
        """As the cache stores them; computes the IoU of both masks of each label, which takes a while."""
        height, width = self.image_hw_px
        instances = Instances.create(
            masks=self.refined_masks,
            raw_masks=self.teacher_masks,
            labels=self.label,
            scores=self.score,
            pred_ious=self.predicted_iou,
        )
        return ImageLabels(image_id=self.image_id, height=height, width=width, instances=instances)


def merge_labels(
    image_id: int,
    image_hw_px: tuple[int, int],
    tiles: Sequence[Box],
    found: Sequence[Mapping[PromptType | None, Labels]],
) -> dict[PromptType | None, Labels]:
    """Labels of an image from those of its tiles, for each kind of prompt.

    The teacher's masks decide which labels are of one object (`merge`), whatever the prompt. Where masks are
    united, the IoU that SAM predicts for the largest one is kept.

    Args:
        tiles: in pixels of the image.
        found: the labels of each tile, as if it were an image.
    """
    by_prompt = {prompt: [of_tile[prompt] for of_tile in found] for prompt in found[0]}
    any_prompt = next(iter(by_prompt.values()))
    views = Views.join(
        tiles,
        [labels.label for labels in any_prompt],
        [labels.score for labels in any_prompt],
        [labels.teacher_masks for labels in any_prompt],
    )
    merged = merge(views)
    teacher_masks = views.masks.united(merged.groups)
    results = {}
    for prompt, parts in by_prompt.items():
        refined_masks = in_image(tiles, [labels.refined_masks for labels in parts]).united(merged.groups)
        results[prompt] = Labels(
            image_id=image_id,
            image_hw_px=image_hw_px,
            label=views.labels[merged.largest],
            score=merged.scores,
            teacher_masks=teacher_masks,
            refined_masks=refined_masks,
            predicted_iou=np.concatenate([labels.predicted_iou for labels in parts])[merged.largest],
        )
    return results
