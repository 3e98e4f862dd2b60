"""The shipped nano SAM 2: what its card promises, and its training material."""

from dataclasses import fields

import numpy as np
import pytest
import torch

from s4m_pipeline.sam import BatchedSam, load_sam
from s4m_pipeline.sam.nano.episodes import INPUT_PX, EpisodeStream, draw_episode
from s4m_pipeline.sam.nano.evaluate import draw_picture, evaluate
from s4m_pipeline.sam.nano.train import NanoTraining, mask_losses, total_loss, train


@pytest.fixture(scope="module")
def quality():
    return evaluate(BatchedSam(load_sam("nano").network), num_scenes=40)


def test_nano__whole_objects_are_segmented_as_the_card_says(quality):
    assert quality["3 points"].mean_iou >= 0.80
    assert quality["box"].mean_iou >= 0.78


def test_nano__one_point_is_ambiguous(quality):
    assert quality["1 point"].mean_iou < quality["3 points"].mean_iou - 0.03


def test_nano__predicted_iou_ranks_masks(quality):
    for kind in quality:
        assert quality[kind].rank_correlation >= 0.6


def test_nano__size_is_what_the_card_says():
    network = load_sam("nano").network
    assert sum(p.numel() for p in network.parameters()) < 2_000_000


def test_draw_picture__writes_a_png(tmp_path):
    draw_picture(BatchedSam(load_sam("nano").network), tmp_path / "nano.png", num_scenes=1)
    assert (tmp_path / "nano.png").read_bytes()[:4] == b"\x89PNG"


def test_draw_episode__prompts_lie_in_their_targets():
    episode = draw_episode(np.random.default_rng(5), 6)
    assert episode.image.shape == (3, INPUT_PX, INPUT_PX)
    cell = INPUT_PX / episode.targets.shape[-1]
    for points, target in zip(episode.points, episode.targets, strict=True):
        cells = (points / cell).long()
        assert (target[cells[:, 1], cells[:, 0]] > 0).all()


def test_episode_stream__repeats_for_a_seed_and_differs_for_another():
    first, second, other = (next(iter(EpisodeStream(seed, 3))) for seed in (1, 1, 2))
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


def test_training__resumes_where_it_was_saved(tmp_path):
    for minutes in (0.02, 0.04):
        train(tmp_path, minutes=minutes, images=1, prompts=2, peak_lr=1e-3, seed=0)
        state = torch.load(tmp_path / "state.pt", weights_only=True)
        assert state["spent_s"] == pytest.approx(60 * minutes)
    assert (tmp_path / "nano.safetensors").exists()


def test_total_loss__trains_every_part_of_the_model():
    torch.manual_seed(0)
    training = NanoTraining()
    stream = iter(EpisodeStream(0, 4))
    episode = next(stream)
    batch = type(episode)(**{item.name: getattr(episode, item.name)[None] for item in fields(episode)})
    total_loss(training(batch, num_points=1)).backward()
    untrained = {name for name, p in training.model.named_parameters() if p.grad is None}
    # What a video memory would use, negative points, and mask prompts, which few prompts have.
    allowed = ("maskmem_tpos_enc", "no_mem_pos_enc", "sam_prompt_encoder.")
    assert not [name for name in untrained if not name.startswith(allowed)]
