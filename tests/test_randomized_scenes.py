"""Scenes for training small models: what they promise, over a few dozen seeds."""

import cv2
import numpy as np
import pytest

from s4m_pipeline.data.scenes.layouts import MAX_OBJECTS, pack, scatter
from s4m_pipeline.data.scenes.painter import MIN_AREA_PX
from s4m_pipeline.data.scenes.photometric import MIN_CONTRAST, photograph, to_gray
from s4m_pipeline.data.scenes.randomized import SIZES_PX, draw_randomized_scene
from s4m_pipeline.data.scenes.shapes import DEMO_FAMILIES, OTHER_FAMILIES
from s4m_pipeline.data.scenes.silhouettes import SILHOUETTES
from s4m_pipeline.data.scenes.textures import PHOTOS, noise_field, photo_patch


def draw(seed: int, families=OTHER_FAMILIES):
    return draw_randomized_scene(np.random.default_rng([1, seed]), families)


@pytest.fixture(scope="module")
def scenes():
    return [draw(seed) for seed in range(80)]


def test_draw_randomized_scene__same_seed_gives_the_same_bytes():
    for seed in range(6):
        first, second = draw(seed), draw(seed)
        assert np.array_equal(first.image, second.image)
        assert len(first.objects) == len(second.objects)
        for a, b in zip(first.objects, second.objects, strict=True):
            assert np.array_equal(a.mask, b.mask)


def test_draw_randomized_scene__images_are_square_rgb(scenes):
    for scene in scenes:
        assert scene.image.dtype == np.uint8
        assert scene.image.shape == (len(scene.image), len(scene.image), 3)
        assert len(scene.image) in SIZES_PX


def test_draw_randomized_scene__objects_are_disjoint_visible_and_made_of_their_parts(scenes):
    for scene in scenes:
        covered = np.zeros(scene.image.shape[:2], int)
        for item in scene.objects:
            covered += item.mask
            assert item.mask.sum() >= MIN_AREA_PX
            assert np.array_equal(np.any(item.part_masks, axis=0), item.mask)
        assert covered.max(initial=0) <= 1


def test_draw_randomized_scene__counts_and_sizes_span_what_is_promised(scenes):
    counts = [len(scene.objects) for scene in scenes]
    assert max(counts) <= MAX_OBJECTS
    assert min(counts) <= 1
    assert max(counts) >= 40
    extents = [np.ptp(np.nonzero(item.mask), axis=1).max() + 1 for scene in scenes for item in scene.objects]
    shares = [
        (np.ptp(np.nonzero(item.mask), axis=1).max() + 1) / len(scene.image)
        for scene in scenes
        for item in scene.objects
    ]
    assert min(extents) <= 8
    assert max(shares) >= 0.5


def test_draw_randomized_scene__gray_and_color_bright_and_dark_objects_occur(scenes):
    gray = [np.ptp(scene.image.astype(int), axis=2).max() == 0 for scene in scenes]
    assert 0.2 < np.mean(gray) < 0.8
    brighter = []
    for scene in scenes:
        if scene.objects:
            inside = np.any([item.mask for item in scene.objects], axis=0)
            if not inside.all():
                brighter.append(scene.image[inside].mean() > scene.image[~inside].mean())
    assert 0.2 < np.mean(brighter) < 0.8


def test_draw_randomized_scene__named_families_are_those_asked_for(scenes):
    names = {item.family for scene in scenes for item in scene.objects}
    assert not names & set(DEMO_FAMILIES)
    assert names & set(OTHER_FAMILIES)
    assert {"grain", "star_convex", "disk"} <= names <= {*OTHER_FAMILIES, *SILHOUETTES, "grain"}


def test_draw_randomized_scene__objects_touch_in_many_scenes(scenes):
    touching = 0
    for scene in scenes:
        labels = np.zeros(scene.image.shape[:2], np.int32)
        for number, item in enumerate(scene.objects, start=1):
            labels[item.mask] = number
        pairs = (labels[:, 1:] != labels[:, :-1]) & (labels[:, 1:] > 0) & (labels[:, :-1] > 0)
        touching += bool(pairs.any())
    assert touching >= 20


@pytest.mark.parametrize("name", SILHOUETTES)
def test_silhouettes__lie_in_the_unit_frame_and_enclose_an_area(name):
    for seed in range(10):
        outline = SILHOUETTES[name](np.random.default_rng(seed))[0].outline
        assert np.abs(outline).max() <= 1.5
        assert cv2.contourArea(outline.astype(np.float32)) > 0.02


def test_ring__leaves_its_hole_out():
    outline = SILHOUETTES["ring"](np.random.default_rng(0))[0].outline
    canvas = np.zeros((100, 100), np.uint8)
    cv2.fillPoly(canvas, [np.round(outline * 40 + 50).astype(np.int32)], 1)
    assert canvas[50, 50] == 0
    assert canvas.sum() > 500


def test_scatter__diameters_and_counts_stay_in_their_bounds():
    for seed in range(40):
        places = scatter(np.random.default_rng(seed), 128)
        assert 1 <= len(places) <= MAX_OBJECTS
        assert all(3 <= place.radius <= 128 / 3 + 1e-6 for place in places)


def test_pack__cells_do_not_overlap():
    for seed in range(5):
        covered = np.zeros((256, 256), int)
        for place, outline in pack(np.random.default_rng(seed), 128):
            cell = np.zeros((256, 256), np.uint8)
            points = np.round((outline * place.radius + place.center) * 2).astype(np.int32)
            cv2.fillPoly(cell, [points], 1)
            covered += cv2.erode(cell, np.ones((3, 3), np.uint8))
        assert covered.max() == 1


def test_photograph__keeps_enough_contrast():
    picture = np.zeros((64, 64, 3), np.float32)
    picture[16:48, 16:48] = 1
    spans = []
    for seed in range(200):
        image = photograph(np.random.default_rng(seed), picture, max_blur_px=1.0).astype(float)
        difference = image[20:44, 20:44].mean((0, 1)) - image[:12].mean((0, 1))
        spans.append(np.abs(difference).max() / 255)
    assert min(spans) >= 0.6 * MIN_CONTRAST  # uneven light and clipping take some of it
    assert min(spans) < 0.3
    assert max(spans) > 0.8


def test_to_gray__channels_are_equal():
    gray = to_gray(np.random.default_rng(0), np.random.default_rng(1).random((8, 8, 3), np.float32))
    assert np.ptp(gray, axis=2).max() == 0


def test_photos__exclude_the_coins_and_can_be_read():
    assert not any("coin" in name for name in PHOTOS)
    means = {round(float(photo_patch(np.random.default_rng(seed), 32).mean()), 4) for seed in range(30)}
    assert len(means) >= 25


def test_noise_field__is_standardized():
    for seed in range(10):
        field = noise_field(np.random.default_rng(seed), 96)
        assert field.shape == (96, 96)
        assert abs(field.mean()) < 1e-3
        assert field.std() == pytest.approx(1, abs=1e-3)
