"""Laws of structural distillation."""

import pytest
import torch
import torch.nn.functional as F

from s4m_pipeline.models.structural import (
    feature_loss,
    resample_to_grid,
    sample_query_points,
    similarity_rows,
    structural_loss,
)


@pytest.fixture
def features() -> torch.Tensor:
    return torch.randn(2, 6, 20, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def index() -> torch.Tensor:
    return torch.tensor([[0, 7, 19], [3, 3, 11]])


def random_rotation(channels: int) -> torch.Tensor:
    matrix = torch.randn(channels, channels, generator=torch.Generator().manual_seed(1))
    return torch.linalg.qr(matrix).Q


def test_structural_loss__equal_similarity_is_zero(features, index):
    rows = similarity_rows(features, index)
    assert structural_loss(rows, rows) == 0


@pytest.mark.parametrize(
    "change",
    [lambda f: 7.5 * f, lambda f: torch.einsum("dc,bcl->bdl", random_rotation(6), f)],
    ids=["scale", "rotation of the channels"],
)
def test_similarity_rows__change_without_meaning_is_ignored(features, index, change):
    torch.testing.assert_close(similarity_rows(change(features), index), similarity_rows(features, index))


def test_similarity_rows__each_point_is_most_similar_to_itself(features, index):
    rows = similarity_rows(features, index)
    torch.testing.assert_close(rows.gather(2, index[..., None]).squeeze(-1), torch.ones(2, 3))
    assert rows.abs().max() <= 1 + 1e-6


def test_structural_loss__gradient_reaches_the_teacher_only(features, index):
    teacher, sam = features.clone().requires_grad_(), features.flip(1).clone().requires_grad_()
    structural_loss(similarity_rows(teacher, index), similarity_rows(sam, index)).backward()
    assert sam.grad is None
    assert teacher.grad is not None and teacher.grad.abs().sum() > 0


def test_structural_loss__order_of_points_is_irrelevant(features, index):
    order = torch.tensor([2, 0, 1])
    target = torch.rand(2, 3, 20)
    loss = structural_loss(similarity_rows(features, index), target)
    permuted = structural_loss(similarity_rows(features, index[:, order]), target[:, order])
    torch.testing.assert_close(loss, permuted)


def test_structural_loss__equals_a_double_loop_in_float64(features, index):
    sam = torch.randn(2, 9, 20, generator=torch.Generator().manual_seed(2)) * 3
    loss = structural_loss(similarity_rows(features, index), similarity_rows(sam, index))

    def cosine(vectors: torch.Tensor, i: int, j: int) -> float:
        a, b = vectors[:, i].double(), vectors[:, j].double()
        return float(a @ b / (a.norm() * b.norm()))

    total = 0.0
    for image in range(2):
        for point in index[image].tolist():
            for token in range(20):
                gap = abs(cosine(features[image], point, token) - cosine(sam[image], point, token))
                total += 0.5 * gap**2 if gap < 1 else gap - 0.5
    assert float(loss) == pytest.approx(total / (2 * 3 * 20), rel=1e-5)


def test_structural_loss__bf16_features_stay_close(features, index):
    sam = features.flip(2)
    exact = structural_loss(similarity_rows(features, index), similarity_rows(sam, index))
    rounded = structural_loss(similarity_rows(features.bfloat16(), index), similarity_rows(sam, index))
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=0.02, atol=1e-3)


def test_feature_loss__target_is_left_alone(features):
    target = features.flip(1).clone().requires_grad_()
    teacher = features.clone().requires_grad_()
    feature_loss(teacher, target).backward()
    assert target.grad is None
    assert float(feature_loss(target, target)) == 0


@pytest.mark.parametrize("size", [(40, 64), (17, 64), (40, 23)], ids=["whole", "short", "narrow"])
def test_resample_to_grid__padding_has_no_part(size):
    height, width = size
    image = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(3))
    padded = F.pad(image, (0, 64 - width, 0, 40 - height), value=1e6)
    grid = (5, 4)
    sampled = resample_to_grid(padded, [size], (40, 64), grid)
    expected = F.interpolate(image, grid, mode="bilinear", align_corners=False)
    torch.testing.assert_close(sampled, expected, rtol=1e-3, atol=1e-4)


def test_resample_to_grid__images_of_a_batch_keep_their_own_areas():
    features = torch.arange(2 * 8 * 8, dtype=torch.float32).reshape(2, 1, 8, 8)
    together = resample_to_grid(features, [(32, 32), (16, 24)], (32, 32), (4, 4))
    alone = [
        resample_to_grid(features[k : k + 1], [size], (32, 32), (4, 4))
        for k, size in enumerate([(32, 32), (16, 24)])
    ]
    torch.testing.assert_close(together, torch.cat(alone))


def test_sample_query_points__half_fall_on_objects():
    foreground = torch.zeros(30, 50, dtype=torch.bool)
    foreground[5:15, 40:48] = True
    points = sample_query_points(foreground, 64)
    assert points.shape == (64, 2)
    first = points[:32].long()
    assert foreground[first[:, 1], first[:, 0]].all()
    assert len({tuple(p) for p in first.tolist()}) == 32
    assert (points >= 0).all() and (points < torch.tensor([50, 30])).all()


def test_sample_query_points__small_foreground_is_taken_whole():
    foreground = torch.zeros(10, 10, dtype=torch.bool)
    foreground[4, 2:5] = True
    points = sample_query_points(foreground, 20)
    assert points[:3].sort(dim=0).values.tolist() == [[2, 4], [3, 4], [4, 4]]
    assert len(points) == 20


def test_sample_query_points__image_without_objects_is_sampled_anywhere():
    points = sample_query_points(torch.zeros(10, 20, dtype=torch.bool), 16)
    assert points.shape == (16, 2)
    assert len({tuple(p) for p in points.tolist()}) > 1
