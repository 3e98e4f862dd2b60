"""Large images in tiles: the grid, merging at the seams, and what predict and evaluate make of them."""

import itertools
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmengine.structures import InstanceData
from numpy.typing import NDArray
from PIL import Image

from s4m_cache.masks import Masks
from s4m_pipeline.apps.predict.predictor import Predictor
from s4m_pipeline.config.experiment import load_experiment
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.data.coco import load_coco
from s4m_pipeline.data.packed_masks import pack_masks
from s4m_pipeline.data.tiles import Merged, Tile, Tiling, Views, merge
from s4m_pipeline.evaluation.checkpoint import predict_split
from s4m_pipeline.experiment.changes import changes, plain
from s4m_pipeline.experiment.evaluation_file import conditions
from s4m_pipeline.models.checkpoint import read_weights
from tests.conftest import TinyCoco

sides = st.integers(1, 300)


@given(sides, sides, st.integers(20, 100), st.data())
def test_cut__tiles_of_one_size_cover_the_input_and_overlap(height, width, size, data):
    overlap = data.draw(st.integers(1, size // 2))
    tiles = [tile.input_box for tile in Tiling(size, overlap).cut((height, width), (height, width))]
    covered = np.zeros((height, width), int)
    for y0, x0, y1, x1 in tiles:
        assert (y1 - y0, x1 - x0) == (min(size, height), min(size, width))
        covered[y0:y1, x0:x1] += 1
    assert covered.min() >= 1
    for axis in (0, 1):
        starts = sorted({box[axis] for box in tiles})
        assert all(second - first <= size - overlap for first, second in itertools.pairwise(starts))


def test_cut__boxes_on_the_image_scale_with_it():
    tiles = Tiling(100, 20).cut((180, 100), (900, 500))
    assert tiles == [Tile((0, 0, 100, 100), (0, 0, 500, 500)), Tile((80, 0, 180, 100), (400, 0, 900, 500))]
    assert Tiling(128, 32).cut((128, 70), (333, 182)) == [Tile((0, 0, 128, 70), (0, 0, 333, 182))]


def views_of(tiles: list[Tile], objects: NDArray[np.bool_], labels: list[int], scores: list[float]) -> Views:
    """Every tile sees every object's pixels in it exactly."""
    seen: list[tuple[NDArray[np.int64], NDArray[np.float32], Masks]] = []
    for tile in tiles:
        y0, x0, y1, x1 = tile.image_box
        parts = objects[:, y0:y1, x0:x1]
        shown = parts.any((1, 2))
        columns = np.array(labels, np.int64)[shown], np.array(scores, np.float32)[shown]
        seen.append((*columns, Masks.from_dense(parts[shown])))
    return Views.join([tile.image_box for tile in tiles], *zip(*seen, strict=True))


def united(views: Views, merged: Merged, size: tuple[int, int]) -> NDArray[np.bool_]:
    return views.masks.united(merged.groups).dense((0, 0, *size))


def random_objects(rng: np.random.Generator, height: int, width: int) -> NDArray[np.bool_]:
    """Connected objects that fill the image and touch: the cells of random points, some joined in a row."""
    points = rng.random((int(rng.integers(1, 14)), 2)) * (height, width)
    grid = np.stack(np.mgrid[:height, :width], axis=-1)[:, :, None]
    cells = ((grid - points) ** 2).sum(-1).argmin(-1)
    return np.stack([cells == cell for cell in np.unique(cells)])


@pytest.mark.parametrize("seed", range(20))
def test_merge__exact_views_of_touching_objects_of_one_class_are_the_objects(seed: int):
    rng = np.random.default_rng(seed)
    size = tuple(int(side) for side in rng.integers(40, 130, 2))
    objects = random_objects(rng, *size)
    scores = rng.permutation(len(objects)) / 100 + 0.5
    tiles = Tiling(32, int(rng.integers(4, 16))).cut(size, size)
    views = views_of(tiles, objects, [0] * len(objects), list(scores))
    merged = merge(views)
    order = np.argsort(-scores)
    np.testing.assert_array_equal(united(views, merged, size), objects[order])
    np.testing.assert_allclose(merged.scores, scores[order])


def slow_merge(
    tiles: list[Tile], views: Views, masks: NDArray[np.bool_]
) -> set[tuple[frozenset[int], float]]:
    """The documented rules on dense masks, one pair after the other."""
    height, width = masks.shape[1:]
    count, tile, scores = len(masks), views.tile.tolist(), views.scores
    boxes = [t.image_box for t in tiles]

    def whole(i: int) -> bool:
        y0, x0, y1, x1 = boxes[tile[i]]
        frame = np.zeros((height, width), bool)
        margin_y, margin_x = (y1 - y0) // 128, (x1 - x0) // 128
        if y0 > 0:
            frame[y0 : y0 + margin_y + 1] = True
        if y1 < height:
            frame[y1 - margin_y - 1 : y1] = True
        if x0 > 0:
            frame[:, x0 : x0 + margin_x + 1] = True
        if x1 < width:
            frame[:, x1 - margin_x - 1 : x1] = True
        return not (masks[i] & frame).any()

    def iou(i: int, j: int) -> float:
        zone = np.zeros((2, height, width), bool)
        for layer, (y0, x0, y1, x1) in zip(zone, (boxes[tile[i]], boxes[tile[j]]), strict=True):
            layer[y0:y1, x0:x1] = True
        a, b = masks[i] & zone.all(0), masks[j] & zone.all(0)
        return (a & b).sum() / max((a | b).sum(), 1)

    def better(i: int, j: int) -> bool:
        return (-scores[i], i) < (-scores[j], j)

    def same_class(i: int, j: int) -> bool:
        return tile[i] != tile[j] and views.labels[i] == views.labels[j]

    left = []
    for i in range(count):
        others = [j for j in range(count) if same_class(i, j) and whole(j) and better(j, i)]
        if whole(i):
            same = [j for j in others if iou(i, j) > 0.5]
        else:
            same = [j for j in others if (masks[i] & masks[j]).sum() > 0.5 * masks[i].sum()]
        if not same:
            left.append(i)
    group_of = {i: {i} for i in left}
    for a in range(len(tiles)):
        for b in range(a + 1, len(tiles)):
            pairs = [
                (-iou(i, j) * min(scores[i], scores[j]), i, j)
                for i in left
                for j in left
                if tile[i] == a and tile[j] == b and same_class(i, j) and iou(i, j) > 0.5
            ]
            taken: set[int] = set()
            for _, i, j in sorted(pairs):
                if not {i, j} & taken:
                    taken |= {i, j}
                    joined = group_of[i] | group_of[j]
                    group_of |= dict.fromkeys(joined, joined)
    return {(frozenset(group), float(max(scores[list(group)]))) for group in group_of.values()}


@pytest.mark.parametrize("seed", range(30))
def test_merge__uncertain_views__equals_the_slow_reference(seed: int):
    rng = np.random.default_rng(seed)
    size = (40, 56)
    tiles = Tiling(32, int(rng.integers(6, 17))).cut(size, size)
    labels, scores, masks = [], [], []
    for tile in tiles:
        y0, x0, y1, x1 = tile.image_box
        objects = random_objects(np.random.default_rng(seed), *size)[:, y0:y1, x0:x1]
        found = []
        for mask in objects[objects.any((1, 2))]:
            for _ in range(int(rng.choice([0, 1, 1, 1, 2]))):  # missed, found, or found twice
                shrunk = mask.copy()
                shrunk[: int(rng.integers(0, 5))] = False
                shrunk[:, int(rng.integers(20, 33)) :] = False
                moved = np.roll(shrunk, rng.integers(-2, 3, 2), (0, 1))
                if moved.any():
                    found.append(moved)
        stack = np.array(found, bool).reshape(-1, y1 - y0, x1 - x0)
        labels.append(rng.integers(0, 2, len(stack)))
        scores.append(rng.random(len(stack)).astype(np.float32))
        masks.append(Masks.from_dense(stack))
    views = Views.join([tile.image_box for tile in tiles], labels, scores, masks)
    merged = merge(views)
    found = {
        (frozenset(group.tolist()), float(score))
        for group, score in zip(merged.groups, merged.scores, strict=True)
    }
    assert found == slow_merge(tiles, views, views.masks.dense((0, 0, *size)))
    assert (np.diff(merged.scores) <= 0).all()


def boxes_as_objects(size: tuple[int, int], *boxes: tuple[int, int, int, int]) -> NDArray[np.bool_]:
    objects = np.zeros((len(boxes), *size), bool)
    for mask, (y0, x0, y1, x1) in zip(objects, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    return objects


def test_merge__poor_view_of_a_cut_object__is_dropped_for_the_whole_one():
    tiles = Tiling(64, 16).cut((64, 112), (64, 112))  # columns 0 to 64 and 48 to 112
    whole = boxes_as_objects((64, 64), (20, 2, 40, 30))  # columns 50 to 78
    cut = boxes_as_objects((64, 64), (20, 58, 26, 64))  # a corner of it
    labels, scores = [np.zeros(1, np.int64)] * 2, [np.full(1, 0.6, np.float32), np.full(1, 0.9, np.float32)]
    views = Views.join([t.image_box for t in tiles], labels, scores, [*map(Masks.from_dense, (cut, whole))])
    assert [group.tolist() for group in merge(views).groups] == [[1]]


# What predict and evaluate make of it: a stand-in for the network that names each object by its color.

NUM_IDS = 250


def read_colors(network: Any, inputs: torch.Tensor, samples: list, rescale: bool) -> list:
    """Takes the place of `InstanceMask2Former._predict_whole`: red is an object's id, green its class."""
    assert max(inputs.shape[-2:]) <= network.tiling.size_px
    means, stds = network.data_preprocessor.mean, network.data_preprocessor.std
    for image, sample in zip(inputs, samples, strict=True):
        height, width = sample.img_shape
        colors = (image[:, :height, :width] * stds + means).round().long()
        ids = colors[0][colors[0] > 0].unique()
        masks = colors[0] == ids[:, None, None]
        labels = torch.stack([colors[1][mask][0] for mask in masks]) if len(ids) else ids
        sample.pred_instances = InstanceData(labels=labels, scores=ids / 255, masks=pack_masks(masks))
    return samples


@pytest.fixture
def reader(tiny_config: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Predictor:
    settings = ["tiles.size_px=128", "tiles.overlap_px=40", "refine.nms_iou=none"]
    predictor = Predictor(tiny_config, tiny_checkpoint, overrides=settings, min_score=0.0, device="cpu")
    monkeypatch.setattr(type(predictor.network), "_predict_whole", read_colors)
    return predictor


def colored(objects: NDArray[np.bool_], labels: list[int]) -> NDArray[np.uint8]:
    pixels = np.zeros((*objects.shape[1:], 3), np.uint8)
    for number, (mask, label) in enumerate(zip(objects, labels, strict=True), start=1):
        pixels[mask] = number, label, 0
    return pixels


def test_predictor__objects_across_seams_come_out_once_and_whole(reader: Predictor):
    objects = boxes_as_objects(
        (300, 500),
        (10, 10, 60, 480),  # across all columns
        (60, 10, 110, 480),  # the same below, touching it
        (120, 90, 140, 120),  # across one seam, whole in a tile
        (150, 20, 290, 30),  # across all rows
        (200, 200, 299, 330),
        (160, 40, 164, 44),
    )
    labels = [0, 0, 1, 1, 0, 1]
    found = reader.predict(colored(objects, labels))
    assert found.labels.tolist() == labels[::-1]
    np.testing.assert_array_equal(found.masks, objects[::-1])
    np.testing.assert_allclose(found.scores, np.arange(6, 0, -1) / 255)


def test_predictor__image_without_objects_has_none(reader: Predictor):
    assert len(reader.predict(np.zeros((200, 300, 3), np.uint8))) == 0


def test_predictor__many_objects_in_a_large_image__take_bounded_memory(reader: Predictor):
    rng = np.random.default_rng(0)
    side, cells = 2000, 15
    pixels = np.zeros((side, side, 3), np.uint8)
    for number in range(cells * cells):
        row, column = (int(place) * side // cells for place in divmod(number, cells))
        height, width = rng.integers(40, 130, 2)
        pixels[row : row + height, column : column + width] = number + 1, number % 2, 0
    ids = np.unique(pixels[..., 0])[1:]
    tracemalloc.start()
    found = reader.predict(pixels)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == len(ids) > 200
    assert peak < 100e6 < len(found) * side * side  # dense masks would take 800 MB
    for mask, score in zip(found.each_mask(), found.scores, strict=True):
        assert np.array_equal(mask, pixels[..., 0] == round(255 * score))


def predictions(config: Path, checkpoint: Path, *overrides: str, image: NDArray[np.uint8]) -> Any:
    return Predictor(config, checkpoint, overrides=overrides, min_score=0.0, device="cpu").predict(image)


def test_predictor__tile_as_large_as_the_image__changes_nothing(
    tiny_config: Path, tiny_checkpoint: Path
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    whole = predictions(tiny_config, tiny_checkpoint, image=image)
    tiled = predictions(tiny_config, tiny_checkpoint, "tiles.size_px=64", image=image)
    for name in ("masks", "labels", "scores"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(tiled, name))


def test_predict_tiles__one_tile__equals_the_whole(tiny_config: Path, tiny_checkpoint: Path) -> None:
    predictor = Predictor(
        tiny_config, tiny_checkpoint, overrides=["tiles.size_px=96"], min_score=0, device="cpu"
    )
    network, inputs = predictor.network, torch.rand(1, 3, 64, 96)
    meta = {"img_shape": (60, 90), "ori_shape": (130, 200), "batch_input_shape": (64, 96)}
    from mmdet.structures import DetDataSample

    with torch.inference_mode():
        (sample,) = network._predict_whole(inputs, [DetDataSample(metainfo=meta)], rescale=True)
        whole = sample.pred_instances
        one = network._predict_tiles(inputs[0], Tiling(96, 24).cut((60, 90), (130, 200)))
    order = np.argsort(-whole.scores.numpy(), kind="stable")
    np.testing.assert_array_equal(one.scores, whole.scores[order])
    np.testing.assert_array_equal(one.labels, whole.labels[order])
    assert np.array_equal(
        one.masks.dense((0, 0, 130, 200)), whole.masks.select(order).dense((0, 0, 130, 200))
    )


def test_evaluate__tiled__measures_what_predict_finds(
    tiny_coco: TinyCoco, tiny_config: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "images").mkdir()
    wide = np.concatenate(
        [np.array(Image.open(tiny_coco.images("val") / f"{number}.png")) for number in (1, 2)], axis=1
    )
    Image.fromarray(wide).save(tmp_path / "images/1.png")
    document = json.loads(tiny_coco.annotations("val").read_text())
    entry = {"id": 1, "file_name": "1.png", "width": 128, "height": 64}
    square = {"id": 1, "image_id": 1, "category_id": 10, "iscrowd": 0, "bbox": [0, 0, 9, 9], "area": 81}
    square["segmentation"] = [[0, 0, 9, 0, 9, 9, 0, 9]]
    document |= {"images": [entry], "annotations": [square]}
    (tmp_path / "data.json").write_text(json.dumps(document))
    settings = ["tiles.size_px=64", "refine.nms_iou=none"]
    _, config = load_experiment(tiny_config, settings)
    truth = load_coco(tmp_path / "data.json", tmp_path / "images")
    found = predict_split(config, read_weights(tiny_checkpoint), truth, workers=0)
    expected = predictions(tiny_config, tiny_checkpoint, *settings, image=wide)
    whole = predictions(tiny_config, tiny_checkpoint, "refine.nms_iou=none", image=wide)
    scores = np.sort([result["score"] for result in found])[::-1]
    np.testing.assert_allclose(scores[: len(expected)], expected.scores, rtol=1e-5)
    assert {tuple(result["segmentation"]["size"]) for result in found} == {(64, 128)}
    assert not np.array_equal(expected.scores, whole.scores)  # it was cut


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["tiles.size_px=32"], "tiles.size_px: 32 given, at least 64 or None expected"),
        (["tiles.size_px=100"], "tiles.size_px: 100 given, a multiple of 32 or None expected"),
        (["tiles.size_px=128", "tiles.overlap_px=128"], "128 given, at most half of tiles.size_px=128"),
        (["tiles.size_px=128", "tiles.overlap_px=0"], "tiles.overlap_px: 0 given, at least 1"),
        (["tiles.sizepx=128"], "tiles.sizepx: unknown key; did you mean tiles.size_px"),
    ],
)
def test_tile_options__faulty__are_named(tiny_config: Path, settings: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_experiment(tiny_config, settings)


@pytest.mark.parametrize("name", ["cityscapes/cityscapes", "coco/coco", "demo/demo"])
def test_tile_options__of_the_shipped_configs__are_off(name: str) -> None:
    options, config = load_experiment(Path(__file__).parent.parent / f"configs/{name}.py", [])
    assert options.tiles.of_network is None and "tiles" not in config["model"].get("test_cfg", {})


def test_tile_options__changed__need_new_evaluations_but_no_new_training(
    tiny_config: Path, tiny_coco: TinyCoco
) -> None:
    (_, whole), (_, tiled) = (load_experiment(tiny_config, s) for s in ([], ["tiles.size_px=64"]))
    settings = {key: value for key, value in tiled.items() if key != "tiles"}  # as `settings_of` a training
    assert changes({"config": plain(whole), "data": {}}, settings, {}) == []
    annotations = tiny_coco.annotations("val")
    assert conditions(annotations, whole) != conditions(annotations, tiled)
