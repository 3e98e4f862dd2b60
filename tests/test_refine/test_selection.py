"""Which queries become pseudo-labels."""

import torch

from s4m_pipeline.refine.selection import MaskFrame, mask_nms, select_queries

FRAME = MaskFrame((64, 64), (64, 64))


def logits_for(scores: list[list[float]]) -> torch.Tensor:
    return torch.tensor(scores).log()


def square(top: int, left: int, side: int, value: float = 6.0) -> torch.Tensor:
    mask = torch.full((16, 16), -6.0)
    mask[top : top + side, left : left + side] = value
    return mask


def test_select_queries__only_confident_objects_with_a_mask_are_kept():
    class_logits = logits_for(
        [
            [0.80, 0.10, 0.10],  # kept
            [0.60, 0.20, 0.20],  # not confident
            [0.05, 0.05, 0.90],  # no object
            [0.10, 0.85, 0.05],  # too small
            [0.04, 0.95, 0.01],  # kept, more confident
            [0.90, 0.05, 0.05],  # nowhere above one half
        ]
    )
    small_squares = [(0, 0, 4), (4, 4, 4), (8, 8, 4), (0, 8, 1), (8, 0, 5)]
    masks = torch.stack([*(square(*place) for place in small_squares), square(0, 0, 16, value=-0.5)])
    kept = select_queries(class_logits, masks, FRAME)
    assert kept.label.tolist() == [1, 0]
    torch.testing.assert_close(kept.score, torch.tensor([0.95, 0.80]))
    assert (kept.mask_logits > 0).sum((1, 2)).tolist() == [25, 16]


def test_select_queries__nothing_confident_gives_an_empty_result():
    kept = select_queries(torch.zeros(3, 5), torch.randn(3, 8, 8), FRAME)
    assert len(kept) == 0
    assert kept.mask_logits.shape == (0, 8, 8)


def test_select_queries__nms_drops_the_less_confident_duplicate():
    class_logits = logits_for([[0.8, 0.1, 0.1], [0.9, 0.05, 0.05], [0.85, 0.1, 0.05]])
    masks = torch.stack([square(0, 0, 6), square(0, 0, 7), square(9, 9, 5)])
    kept = select_queries(class_logits, masks, FRAME, nms_iou=0.5)
    torch.testing.assert_close(kept.score, torch.tensor([0.9, 0.85]))
    assert len(select_queries(class_logits, masks, FRAME)) == 3


def test_select_queries__mask_score_is_the_mean_probability_inside_and_a_threshold():
    class_logits = logits_for([[0.8, 0.1, 0.1], [0.9, 0.05, 0.05]])
    masks = torch.stack([square(0, 0, 6, value=3.0), square(8, 8, 6, value=0.5)])
    kept = select_queries(class_logits, masks, FRAME)
    torch.testing.assert_close(kept.mask_score, torch.tensor([0.5, 3.0]).sigmoid())
    assert select_queries(class_logits, masks, FRAME, min_mask_score=0.7).label.tolist() == [0]


def test_mask_nms__a_dropped_mask_drops_nothing():
    a, b, c = torch.zeros(3, 1, 12, dtype=torch.bool)
    a[:, 0:6], b[:, 2:8], c[:, 4:10] = True, True, True  # a-b and b-c overlap by half, a-c by a fifth
    assert mask_nms(torch.stack([a, b, c]), 0.4).tolist() == [0, 2]
