"""Bootstrap intervals, and mask AP of resampled images against pycocotools on images really repeated."""

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from s4m_pipeline.data.coco import CocoData
from s4m_pipeline.data.coco_entries import Category, CocoImage
from s4m_pipeline.evaluation.intervals import Interval, interval, percentage
from s4m_pipeline.evaluation.mask_ap import mask_ap
from s4m_pipeline.evaluation.matches import Matches

SIDE = 64
Results = list[dict[str, Any]]


def data_set(num_images: int, num_classes: int = 3, seed: int = 0) -> tuple[CocoData, Results, Results]:
    """Squares, some of them crowds, and two sets of predictions: moved, missing, doubled and misnamed."""
    rng = np.random.default_rng(seed)
    annotations: dict[int, list[dict[str, Any]]] = {}
    results: tuple[Results, Results] = ([], [])
    for image_id in range(1, num_images + 1):
        entries = annotations[image_id] = []
        for _ in range(int(rng.integers(0, 12))):
            corner, side = rng.integers(0, SIDE - 24, 2), int(rng.integers(6, 24))
            category = int(rng.integers(num_classes))
            entry = square(corner, side) | {"image_id": image_id, "category_id": category}
            entries.append(entry | {"id": 0, "iscrowd": int(rng.random() < 0.1)})
            for found, spread in zip(results, (2, 4), strict=True):
                for _ in range(int(rng.integers(0, 4))):
                    moved = square(corner + rng.integers(-spread, spread + 1, 2), side)
                    named = category if rng.random() < 0.8 else int(rng.integers(num_classes))
                    score = {"score": float(rng.random())}
                    found.append(moved | {"image_id": image_id, "category_id": named} | score)
    for number, entry in enumerate(entry for entries in annotations.values() for entry in entries):
        entry["id"] = number  # from 0: matches must not depend on it
    usable = {entry["id"] for entries in annotations.values() for entry in entries if not entry["iscrowd"]}
    truth = CocoData(
        json_path=Path("truth.json"),
        images_root=Path(),
        sha256="",
        categories=tuple(Category(label, f"class {label}", label) for label in range(num_classes)),
        images=tuple(CocoImage(n, f"{n}.png", SIDE, SIDE, Path(f"{n}.png")) for n in annotations),
        annotations=annotations,
        usable=frozenset(usable),
    )
    return truth, *results


def square(corner: Any, side: int) -> dict[str, Any]:
    top, left = np.clip(corner, 0, SIDE - side).tolist()
    mask = np.zeros((SIDE, SIDE), np.uint8, order="F")
    mask[top : top + side, left : left + side] = 1
    rle = coco_mask.encode(mask)
    segmentation = {"size": rle["size"], "counts": rle["counts"].decode()}
    return {"segmentation": segmentation, "bbox": [left, top, side, side], "area": side * side}


def repeated_ap(truth: CocoData, results: Results, counts: np.ndarray) -> float:
    """AP by pycocotools of a data set in which every image is present as often as `counts` says."""
    images, annotations, predictions = [], [], []
    for image, count in zip(truth.images, counts.tolist(), strict=True):
        for _ in range(count):
            new = {"image_id": len(images) + 1}
            images.append({"id": len(images) + 1, "width": SIDE, "height": SIDE})
            for entry in truth.annotations[image.id]:
                annotations.append({**entry, **new, "id": len(annotations) + 1})
            predictions += [{**result, **new} for result in results if result["image_id"] == image.id]
    categories = [{"id": category.id, "name": category.name} for category in truth.categories]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {"images": images, "annotations": annotations, "categories": categories}
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(predictions), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    return 100 * float(precision[precision > -1].mean())


def test_average_precision__images_once_is_plain_coco() -> None:
    truth, results, _ = data_set(20)
    found = Matches.of(truth, results).average_precision(np.ones((1, 20)))
    assert 10 < found[0] < 90
    assert found[0] == pytest.approx(mask_ap(truth, results, backend="pycocotools").AP, abs=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_average_precision__weighted_images_equal_images_really_repeated(seed: int) -> None:
    truth, results, _ = data_set(12, seed=seed)
    weights = np.random.default_rng(seed).multinomial(12, np.full(12, 1 / 12), size=6)
    found = Matches.of(truth, results).average_precision(weights.astype(float))
    expected = [repeated_ap(truth, results, row) for row in weights]
    assert found == pytest.approx(expected, abs=1e-9)


def test_average_precision__draws_without_objects_of_a_class_leave_it_out() -> None:
    truth, results, _ = data_set(12, num_classes=6, seed=5)
    weights = np.eye(12)
    weights = weights[[bool(truth.instances(image.id)) for image in truth.images]]
    found = Matches.of(truth, results).average_precision(weights)
    expected = [repeated_ap(truth, results, row.astype(int)) for row in weights]
    assert found == pytest.approx(expected, abs=1e-9)


def test_average_precision__no_predictions_score_0_and_no_objects_are_undefined() -> None:
    truth, _, _ = data_set(4)
    matches = Matches.of(truth, [])
    assert matches.average_precision(np.ones((2, 4))).tolist() == [0, 0]
    assert np.isnan(matches.average_precision(np.zeros((1, 4)))).all()


def test_matches__stored_and_read_are_the_same(tmp_path: Path) -> None:
    truth, results, _ = data_set(4)
    matches = Matches.of(truth, results)
    matches.save(tmp_path / "matches.npz")
    read = Matches.load(tmp_path / "matches.npz")
    for name, array in vars(matches).items():
        np.testing.assert_array_equal(getattr(read, name), array)


def difference(one: Matches, two: Matches) -> Interval:
    return interval(
        lambda weights: one.average_precision(weights) - two.average_precision(weights), len(one.image_ids)
    )


def test_interval__identical_predictions_differ_by_exactly_0() -> None:
    truth, results, _ = data_set(10)
    matches = Matches.of(truth, results)
    assert difference(matches, matches) == Interval(0.0, 0.0, 0.0)


def test_interval__of_a_difference_is_antisymmetric_and_repeatable() -> None:
    truth, better, worse = data_set(30)
    one, two = Matches.of(truth, better), Matches.of(truth, worse)
    found, turned = difference(one, two), difference(two, one)
    assert found.above_zero
    assert turned.below_zero
    assert (found.low, found.high) == pytest.approx((-turned.high, -turned.low))  # type: ignore[operator]
    assert found == difference(one, two)


def test_interval__one_image_or_an_undefined_score_has_none() -> None:
    one = interval(percentage(np.array([3]), np.array([4])), 1)
    assert one == Interval(75.0, None, None)
    assert "single image" in one.text()
    assert not one.above_zero
    nothing = interval(percentage(np.zeros(5), np.zeros(5)), 5)
    assert nothing.text() == "undefined"


def test_interval__of_a_mean_has_the_width_that_theory_says() -> None:
    values = np.random.default_rng(1).normal(50, 10, 200)
    found = interval(percentage(values / 100, np.ones(200)), 200)
    standard_error = values.std() / np.sqrt(200)
    assert found.estimate == pytest.approx(values.mean())
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * standard_error, rel=0.1)  # type: ignore[operator]
