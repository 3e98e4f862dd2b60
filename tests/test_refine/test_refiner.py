"""Refinement of a ragged batch by the shipped SAM 2."""

from typing import get_args

import numpy as np
import pytest
import torch

from s4m_pipeline.config.groups import PromptType
from s4m_pipeline.data.scenes.render import SceneStyle, draw_scene
from s4m_pipeline.data.scenes.shapes import DEMO_FAMILIES
from s4m_pipeline.refine.prompts import refine_masks
from s4m_pipeline.refine.selection import Candidates, MaskFrame
from s4m_pipeline.sam import BatchedSam, load_sam


@pytest.fixture(scope="module")
def sam() -> BatchedSam:
    return BatchedSam(load_sam("nano").network)


@pytest.fixture(scope="module")
def images() -> list[torch.Tensor]:
    scenes = [draw_scene(np.random.default_rng([2, k]), DEMO_FAMILIES, SceneStyle()) for k in range(3)]
    return [torch.from_numpy(scene.image.transpose(2, 0, 1).copy()) for scene in scenes]


def labels(count: int, seed: int) -> Candidates:
    """Random blobs as a teacher's masks on the stride-4 grid."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.full((count, 32, 32), -4.0)
    for mask in masks:
        top, left = torch.randint(0, 22, (2,), generator=generator).tolist()
        mask[top : top + 9, left : left + 8] = 3.0
    frame = MaskFrame((128, 128), (128, 128))
    ones = torch.ones(count)
    return Candidates(torch.zeros(count, dtype=torch.int64), ones, ones, masks, frame)


def test_refine_masks__labels_do_not_depend_on_the_batch(sam, images):
    kept, ids = [labels(4, 0), labels(0, 1), labels(2, 2)], [11, 12, 13]
    together = refine_masks(sam, sam.encode(images), kept, ids)
    for image, label, image_id, expected in zip(images, kept, ids, together, strict=True):
        (alone,) = refine_masks(sam, sam.encode([image]), [label], [image_id])
        assert len(alone.masks) == len(label)
        np.testing.assert_array_equal(alone.masks.boxes, expected.masks.boxes)
        np.testing.assert_array_equal(alone.masks.bits, expected.masks.bits)
        torch.testing.assert_close(alone.predicted_iou, expected.predicted_iou, rtol=0, atol=1e-5)


def test_refine_masks__another_generation_draws_other_points(sam, images):
    embeddings = sam.encode(images[:1])
    first, second = (
        refine_masks(sam, embeddings, [labels(4, 0)], [1], generation=generation)[0] for generation in (0, 1)
    )
    assert not torch.equal(first.predicted_iou, second.predicted_iou)


@pytest.mark.parametrize("kind", get_args(PromptType))
def test_refine_masks__every_prompt_type_gives_masks(sam, images, kind):
    refined = refine_masks(sam, sam.encode(images[:1]), [labels(3, 0)], [1], kind=kind)
    assert len(refined[0].masks) == 3
    assert ((refined[0].predicted_iou >= 0) & (refined[0].predicted_iou <= 1)).all()


def test_refine_masks__no_labels_anywhere_gives_empty_masks(sam, images):
    refined = refine_masks(sam, sam.encode(images[:2]), [labels(0, 0), labels(0, 1)], [1, 2])
    assert [len(r.masks) for r in refined] == [0, 0]
