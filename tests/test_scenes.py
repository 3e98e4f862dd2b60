"""The embedded data set."""

import json

import cv2
import numpy as np
import pytest

from s4m_pipeline.data.scenes.cells import draw_cells
from s4m_pipeline.data.scenes.crowds import CROWD_FAMILIES, draw_crowds
from s4m_pipeline.data.scenes.render import SceneStyle, draw_scene
from s4m_pipeline.data.scenes.shapes import DEMO_FAMILIES, OTHER_FAMILIES
from s4m_pipeline.data.scenes.writer import Subset, write_scenes


def scenes(count: int, families=DEMO_FAMILIES):
    return [draw_scene(np.random.default_rng([1, k]), families, SceneStyle()) for k in range(count)]


def test_draw_scene__same_seed_gives_the_same_bytes():
    first, second = scenes(3), scenes(3)
    for a, b in zip(first, second, strict=True):
        assert np.array_equal(a.image, b.image)
        assert [o.family for o in a.objects] == [o.family for o in b.objects]


@pytest.mark.parametrize("families", [DEMO_FAMILIES, OTHER_FAMILIES], ids=["demo", "other"])
def test_draw_scene__objects_are_disjoint_and_made_of_their_parts(families):
    for scene in scenes(12, families):
        covered = np.zeros(scene.image.shape[:2], int)
        for item in scene.objects:
            covered += item.mask
            assert np.array_equal(np.any(item.part_masks, axis=0), item.mask)
            assert sum(part.sum() for part in item.part_masks) == item.mask.sum()
        assert covered.max(initial=0) <= 1


def test_draw_scene__same_class_neighbors_often_touch():
    touching = 0
    for scene in scenes(30):
        for k, a in enumerate(scene.objects):
            grown = a.mask.copy()
            grown[1:] |= a.mask[:-1]
            grown[:, 1:] |= a.mask[:, :-1]
            grown[:-1] |= a.mask[1:]
            grown[:, :-1] |= a.mask[:, 1:]
            touching += any(b.family == a.family and (grown & b.mask).any() for b in scene.objects[k + 1 :])
    assert touching >= 15


def test_families__demo_and_others_share_nothing():
    assert not set(DEMO_FAMILIES) & set(OTHER_FAMILIES)


def test_write_scenes__subsets_differ_and_repeat_to_the_byte(tmp_path):
    subsets = (Subset("train", 0, 3), Subset("val", 1, 3))
    for name in ("a", "b"):
        write_scenes(tmp_path / name, subsets, DEMO_FAMILIES, (1, 0))
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert len(files) == 8
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    train, val = (tmp_path / "a" / s.name / f"{s.name}_00000.png" for s in subsets)
    assert train.read_bytes() != val.read_bytes()


def test_write_scenes__class_agnostic_has_one_category(tmp_path):
    write_scenes(tmp_path, (Subset("train", 0, 4),), OTHER_FAMILIES, (1, 0), class_agnostic=True)
    content = json.loads((tmp_path / "train.json").read_text())
    assert [c["name"] for c in content["categories"]] == ["object"]
    assert {a["category_id"] for a in content["annotations"]} == {1}


def test_draw_cells__same_seed_gives_the_same_cells_which_touch_and_never_overlap():
    scenes = [draw_cells(np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert np.array_equal(scenes[0].image, scenes[1].image)
    assert not np.array_equal(scenes[0].image, scenes[2].image)
    for scene in scenes:
        masks = np.stack([item.mask for item in scene.objects])
        assert len(masks) >= 5 and masks.sum(axis=0).max() == 1
        inside = scene.image[..., 0][masks.any(axis=0)].mean()
        assert (
            scene.image[..., 0][~masks.any(axis=0)].mean() < inside < 80
        )  # brighter than the ground, and dim


def test_draw_crowds__same_seed_gives_the_same_crowds_which_are_disjoint_and_mostly_touch():
    scenes = [draw_crowds(np.random.default_rng(seed), CROWD_FAMILIES) for seed in (0, 0, *range(1, 20))]
    assert np.array_equal(scenes[0].image, scenes[1].image)
    assert not np.array_equal(scenes[0].image, scenes[2].image)
    assert {item.family for scene in scenes for item in scene.objects} == set(CROWD_FAMILIES)
    touching, count = 0, 0
    for scene in scenes:
        masks = np.stack([item.mask for item in scene.objects]).astype(np.uint8)
        assert masks.sum(axis=0).max() == 1
        grown = np.stack([cv2.dilate(mask, np.ones((3, 3), np.uint8)) for mask in masks])
        near = (grown[:, None] & masks[None]).any(axis=(2, 3))
        same = np.array([[a.family == b.family for b in scene.objects] for a in scene.objects])
        touching += int((near & same & ~np.eye(len(masks), dtype=bool)).any(axis=1).sum())
        count += len(masks)
    assert touching > 0.6 * count


def test_draw_crowds__color_tells_the_class_of_nearly_all_objects():
    """The strongest channel of the mean color: red, blue, green. The few pale ones are told by shape."""
    strongest = {"caterpillar": 0, "beetle": 1, "starfish": 2}
    right = []
    for seed in range(30):
        scene = draw_crowds(np.random.default_rng(seed), CROWD_FAMILIES)
        right += [scene.image[o.mask].mean(0).argmax() == strongest[o.family] for o in scene.objects]
    assert np.mean(right) > 0.85
