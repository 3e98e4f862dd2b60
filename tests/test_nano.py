"""The shipped nano SAM 2: what its card promises, and its training material."""

from dataclasses import fields, replace

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from s4m_pipeline.data.scenes.render import SceneStyle, draw_scene
from s4m_pipeline.data.scenes.shapes import DEMO_FAMILIES
from s4m_pipeline.sam import BatchedSam, load_sam
from s4m_pipeline.sam.nano.episodes import CODE_CHANNELS, INPUT_PX, EpisodeStream, dense_targets, draw_episode
from s4m_pipeline.sam.nano.evaluate import BARS, PROMPT_KINDS, draw_picture, evaluate, failures
from s4m_pipeline.sam.nano.exam import CHANGES, demo_pictures, exam
from s4m_pipeline.sam.nano.train import NanoTraining, mask_losses, total_loss, train


@pytest.fixture(scope="module")
def quality():
    return evaluate(BatchedSam(load_sam("nano").network), demo_pictures(40, seed=0))


def test_nano__whole_objects_are_segmented_as_the_card_says(quality):
    assert quality["3 points"].mean_iou >= 0.86
    assert quality["box"].mean_iou >= 0.88


@pytest.mark.parametrize(("name", "expected"), [("gray", 0.6), ("contrast 0.2", 0.72), ("inverted", 0.76)])
def test_nano__bears_what_a_camera_changes(name, expected):
    changed = CHANGES[name](demo_pictures(20, seed=1), 1)
    quality = evaluate(BatchedSam(load_sam("nano").network), changed)
    assert quality["3 points"].mean_iou >= expected


def test_nano__one_point_is_ambiguous(quality):
    assert quality["1 point"].mean_iou < quality["3 points"].mean_iou - 0.02


def test_nano__predicted_iou_ranks_masks(quality):
    for kind in quality:
        assert quality[kind].rank_correlation >= 0.6


def test_nano__size_is_what_the_card_says():
    network = load_sam("nano").network
    assert sum(p.numel() for p in network.parameters()) < 2_000_000


def test_draw_picture__writes_a_png(tmp_path):
    draw_picture(BatchedSam(load_sam("nano").network), tmp_path / "nano.png", demo_pictures(1, seed=0))
    assert (tmp_path / "nano.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("name", BARS)
def test_exam__every_set_has_disjoint_whole_objects(name, pictures):
    for picture in pictures[name]:
        assert picture.image.shape == (*picture.masks.shape[1:], 3)
        assert picture.masks.sum(0).max() == 1
        assert picture.masks.any((1, 2)).all()


@pytest.fixture(scope="module")
def pictures():
    return exam(3)


def test_exam__has_a_bar_for_each_set_and_repeats(pictures):
    assert list(pictures) == list(BARS)
    for name, again in exam(3).items():
        for a, b in zip(pictures[name], again, strict=True):
            assert np.array_equal(a.image, b.image)
            assert np.array_equal(a.masks, b.masks)


def test_failures__names_the_set_the_prompt_and_the_bar(quality):
    poor = {kind: replace(quality[kind], mean_iou=0.5, rank_correlation=0.7) for kind in PROMPT_KINDS}
    assert failures({"coins": poor}) == [
        "coins, 3 points: mean IoU 0.500, expected at least 0.80",
        "coins, box: mean IoU 0.500, expected at least 0.85",
    ]


def test_draw_episode__prompts_lie_in_their_targets():
    episode = draw_episode(np.random.default_rng(5), 6)
    assert episode.image.shape == (3, INPUT_PX, INPUT_PX)
    cell = INPUT_PX / episode.targets.shape[-1]
    for points, target in zip(episode.points, episode.targets, strict=True):
        cells = (points / cell).long()
        assert (target[cells[:, 1], cells[:, 0]] > 0).all()


def test_episode_stream__repeats_for_a_seed_and_differs_for_another():
    first, second, other = (next(iter(EpisodeStream((seed,), 3))) for seed in (1, 1, 2))
    for item in fields(first):
        assert torch.equal(getattr(first, item.name), getattr(second, item.name))
    assert not torch.equal(first.image, other.image)


def test_mask_losses__only_the_best_of_three_is_asked_to_match():
    target = torch.zeros(1, 8, 8)
    target[:, 2:6, 2:6] = 1
    good, bad = 20 * target - 10, torch.full((1, 8, 8), -10.0)
    masks = torch.stack([bad, bad, good, bad], dim=1)
    losses = mask_losses(masks, torch.full((1, 4), 0.5), target)
    assert losses["best_mask"] < 0.02 < losses["all_masks"]
    assert losses["best_iou_seen"] == 1


SMALL_RUN = {
    "images": 1, "prompts": 2, "peak_lr": 1e-3, "seed": 0, "workers": 1, "initial_weights": None,
}  # fmt: skip


def test_training__resumes_where_it_was_saved(tmp_path):
    steps = []
    for minutes in (0.005, 0.08):
        train(tmp_path, minutes=minutes, **SMALL_RUN)
        state = torch.load(tmp_path / "state.pt", weights_only=True)
        assert state["spent_s"] >= 60 * minutes
        steps.append(state["step"])
    assert steps[1] > steps[0] > 0


def test_training__resumes_from_released_weights(tmp_path):
    train(tmp_path / "first", minutes=0.01, **SMALL_RUN)
    released = tmp_path / "first" / "nano.safetensors"
    train(tmp_path / "second", minutes=0.001, **SMALL_RUN | {"initial_weights": released})
    first, second = (load_file(tmp_path / run / "nano.safetensors") for run in ("first", "second"))
    name = "sam_mask_decoder.iou_token.weight"
    assert torch.allclose(first[name], second[name], atol=0.01)


def test_total_loss__trains_every_part_of_the_model():
    torch.manual_seed(0)
    training = NanoTraining()
    stream = iter(EpisodeStream((0,), 4))
    episode = next(stream)
    batch = type(episode)(**{item.name: getattr(episode, item.name)[None] for item in fields(episode)})
    total_loss(training(batch, num_points=1)).backward()
    untrained = {name for name, p in training.model.named_parameters() if p.grad is None}
    # What a video memory would use, negative points, and mask prompts, which few prompts have.
    allowed = ("maskmem_tpos_enc", "no_mem_pos_enc", "sam_prompt_encoder.")
    assert not [name for name in untrained if not name.startswith(allowed)]


def test_dense_targets__cells_of_one_object_share_its_code():
    scene = draw_scene(np.random.default_rng(3), DEMO_FAMILIES, SceneStyle())
    dense = dense_targets(scene)
    assert dense.shape == (2 + 2 * CODE_CHANNELS, 24, 24)
    coverage, codes = dense[0], dense[2 : 2 + CODE_CHANNELS]
    inner = [
        cv2.resize(item.mask.astype(np.float32), (24, 24), interpolation=cv2.INTER_AREA) == 1
        for item in scene.objects
    ]
    assert all((coverage[cells] == 1).all() for cells in inner)
    assert all(codes[:, cells].std(axis=1).max() < 1e-3 for cells in inner if cells.any())
