"""Unlabeled images with the labels of the cache, through the labeled branch's transforms."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from s4m_cache.errors import CacheError, LockedError
from s4m_cache.generation import Generation
from s4m_cache.generations import retire
from s4m_cache.records import ImageLabels, Instances
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.data.dataset import collate_instances
from s4m_pipeline.data.images import read_rgb
from s4m_pipeline.data.seeding import seed_all
from s4m_pipeline.models.registry import register_all
from s4m_pipeline.student import pseudo_labels
from s4m_pipeline.student.pseudo_labels import PseudoLabeledImages
from tests.conftest import TinyCoco
from tests.test_student.labeled_scenes import PIPELINE, painted_labels, pseudo_labeled, publish_labels

LOADED = [*PIPELINE[:2], PIPELINE[-1]]
COUNTS = {1: 2, 2: 0, 3: 1, 4: 2, 5: 0, 6: 2}
Build = Callable[..., PseudoLabeledImages]


@pytest.fixture(scope="module")
def written(tiny_coco: TinyCoco, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generation 1 has `COUNTS` instances, generation 2 none at all."""
    root = tmp_path_factory.mktemp("pseudo_labels")
    for number, factor in ((1, 1), (2, 0)):
        images = [painted_labels(tiny_coco, i, count * factor) for i, count in COUNTS.items()]
        publish_labels(root, number, images)
    return root


@pytest.fixture
def cache(written: Path, tmp_path: Path) -> Path:
    """A copy of these generations, to be changed."""
    return Path(shutil.copytree(written, tmp_path / "cache"))


@pytest.fixture
def build(tiny_coco: TinyCoco, cache: Path) -> Build:
    """The data set with generation 1."""

    def build_dataset(**changes: Any) -> PseudoLabeledImages:
        register_all()
        config = pseudo_labeled(tiny_coco, cache, **changes)
        config.pop("type")
        dataset = PseudoLabeledImages(**config)
        dataset.use_generation(1)
        return dataset

    return build_dataset


def counts(dataset: PseudoLabeledImages) -> list[int]:
    return [len(dataset[place]["data_samples"].gt_instances) for place in range(len(dataset))]


def test_pseudo_labels__without_geometry_are_those_of_the_cache(build: Build, tiny_coco: TinyCoco) -> None:
    dataset = build(pipeline=LOADED)
    for place, image_id in enumerate(COUNTS):
        item, cached = dataset[place], painted_labels(tiny_coco, image_id, COUNTS[image_id])
        pixels, _ = read_rgb(tiny_coco.images("train") / f"{image_id}.png")
        np.testing.assert_array_equal(item["inputs"].permute(1, 2, 0).numpy(), pixels)
        found = item["data_samples"].gt_instances
        assert item["data_samples"].img_id == image_id
        assert found.labels.tolist() == cached.instances.labels.tolist()
        np.testing.assert_array_equal(found.masks.masks, cached.dense())
        for box, mask in zip(found.bboxes.tensor.tolist(), cached.dense(), strict=True):
            (y, x) = np.nonzero(mask)
            assert box == [x.min(), y.min(), x.max() + 1, y.max() + 1]


def test_pseudo_labels__after_the_transforms_still_lie_on_their_pixels(build: Build) -> None:
    dataset, found = build(), 0
    for repeat in range(5):
        for place in range(len(dataset)):
            seed_all(repeat, place)
            item = dataset[place]
            instances = item["data_samples"].gt_instances
            for mask, label in zip(instances.masks.masks, instances.labels.tolist(), strict=True):
                assert mask.shape == (40, 40)
                assert np.all(item["inputs"].numpy()[:, mask > 0] == (240, 10)[label])
                found += 1
    assert found > 10


def test_pseudo_labels__images_without_any_stay_whatever_the_labeled_branch_does(build: Build) -> None:
    strict: list[dict[str, Any]] = [
        *PIPELINE[:2],
        {"type": "RandomCrop", "crop_size": (64, 64)},
        {"type": "FilterAnnotations", "min_gt_bbox_wh": (25, 25)},
        PIPELINE[-1],
    ]
    dataset = build(pipeline=strict)
    ids = [dataset[place]["data_samples"].img_id for place in range(len(dataset))]
    assert ids == list(COUNTS)
    assert 0 in counts(dataset)


def test_pseudo_labels__instances_without_pixels_are_left_out(
    build: Build, cache: Path, tiny_coco: TinyCoco
) -> None:
    masks = np.zeros((3, 64, 64), np.bool_)
    masks[1, 5:9, 6:40] = True
    first = ImageLabels(
        image_id=1,
        height=64,
        width=64,
        instances=Instances.create(masks=masks, labels=[0, 1, 0], scores=[0.9, 0.8, 0.7]),
    )
    publish_labels(cache, 3, [first, *(painted_labels(tiny_coco, i, 2) for i in range(2, 7))])
    dataset = build(pipeline=LOADED)
    dataset.use_generation(3)
    found = dataset[0]["data_samples"].gt_instances
    assert found.labels.tolist() == [1]
    np.testing.assert_array_equal(found.masks.masks, masks[1:2])


def ignoring_the_last(labels: ImageLabels) -> ImageLabels:
    instances = labels.instances
    ignored = np.arange(len(instances)) == len(instances) - 1
    return replace(labels, instances=replace(instances, ignored=ignored))


def test_pseudo_labels__ignored_ones__are_where_either_mask_and_no_other_label_is(
    build: Build, cache: Path, tiny_coco: TinyCoco
) -> None:
    refined, raw = np.zeros((2, 3, 64, 64), np.bool_)
    refined[:, 10:30, 10:30] = True
    raw[1, 20:40, 20:40] = True
    raw[2, :5, :5] = True
    instances = Instances.create(
        masks=refined, raw_masks=raw, labels=[1, 0, 0], scores=[0.9, 0.8, 0.7], ignored=[False, True, True]
    )
    first = ImageLabels(image_id=1, height=64, width=64, instances=instances)
    publish_labels(cache, 3, [first, *(painted_labels(tiny_coco, i, 2) for i in range(2, 7))])
    dataset = build(pipeline=LOADED)
    dataset.use_generation(3)
    samples = collate_instances([dataset[0], dataset[1]])["data_samples"]
    assert samples[0].gt_instances.labels.tolist() == [1]
    np.testing.assert_array_equal(samples[0].gt_instances.masks.masks, refined[:1])
    expected = (raw[1] | raw[2]) & ~refined[0]
    np.testing.assert_array_equal(samples[0].ignored.masks, expected[None])
    assert "ignored" not in samples[1]


def test_pseudo_labels__ignored_region_after_the_transforms__still_lies_on_its_pixels(
    build: Build, cache: Path, tiny_coco: TinyCoco
) -> None:
    images = [ignoring_the_last(painted_labels(tiny_coco, i, 2)) for i in COUNTS]
    publish_labels(cache, 3, images)
    dataset, found = build(), 0
    dataset.use_generation(3)
    for repeat in range(5):
        for place, labels in enumerate(images):
            seed_all(repeat, place)
            item = dataset[place]
            assert len(item["data_samples"].gt_instances) < 2
            if "ignored" in item["data_samples"]:
                (region,) = item["data_samples"].ignored.masks
                color = (240, 10)[labels.instances.labels[-1]]
                assert np.all(item["inputs"].numpy()[:, region > 0] == color) and region.any()
                found += 1
    assert found > 10


def test_generation__another_one__is_read_and_the_first_let_go(build: Build, cache: Path) -> None:
    dataset = build()
    assert sum(counts(dataset)) > 0
    with pytest.raises(LockedError):
        retire(Generation(cache, 1))
    dataset.use_generation(2)
    assert sum(counts(dataset)) == 0
    retire(Generation(cache, 1))
    with pytest.raises(CacheError, match="gen-0001"):
        dataset.use_generation(1)


def test_generation__of_other_classes__is_refused(build: Build, cache: Path, tiny_coco: TinyCoco) -> None:
    publish_labels(
        cache, 3, [painted_labels(tiny_coco, i, 0) for i in COUNTS], classes=("dark", "bright", "gray")
    )
    dataset = build()
    with pytest.raises(UserError, match=r"gen-0003.*'gray'.*'bright', 'dark'"):
        dataset.use_generation(3)
    assert sum(counts(dataset)) > 0  # the one before is still read


@pytest.fixture
def images(tiny_coco: TinyCoco, tmp_path: Path) -> Path:
    """A copy of the image folder, to be damaged."""
    return Path(shutil.copytree(tiny_coco.images("train"), tmp_path / "images"))


def shrink(path: Path) -> None:
    Image.open(path).resize((30, 20)).save(path)


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"?"), shrink])
def test_unusable_image__without_labels__is_replaced_and_reported_once(
    build: Build, images: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], Any]
) -> None:
    messages: list[str] = []
    monkeypatch.setattr(pseudo_labels, "print_log", lambda message, **_: messages.append(message))
    dataset = build(images=str(images))
    damage(images / "2.png")
    ids = []
    for seed in (0, 0, 1, 2, 3):
        seed_all(seed)
        ids.append(dataset[1]["data_samples"].img_id)
    assert ids[0] == ids[1]
    assert 2 not in ids and len(set(ids)) > 1
    assert len(messages) == 1 and "2.png" in messages[0]


def test_unreadable_image__with_labels__is_an_error_naming_it(build: Build, images: Path) -> None:
    dataset = build(images=str(images))
    (images / "1.png").write_bytes(b"?")
    with pytest.raises(UserError, match=r"1\.png"):
        dataset[0]


def test_image_of_another_size__with_labels__is_an_error_naming_both(build: Build, images: Path) -> None:
    dataset = build(images=str(images))
    shrink(images / "1.png")
    with pytest.raises(UserError, match=r"1\.png: is 30 x 20 pixels.*for 64 x 64"):
        dataset[0]


def test_pipeline__that_loads_nothing__is_refused(build: Build) -> None:
    with pytest.raises(UserError, match="train_pipeline: expected LoadRGB and LoadInstances"):
        build(pipeline=PIPELINE[2:])
