"""The embedded data set."""

import json

import numpy as np
import pytest

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


def test_draw_scene__same_class_neighbours_often_touch():
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
