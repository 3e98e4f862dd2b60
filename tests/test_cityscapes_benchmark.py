"""The Cityscapes benchmark: files of results, its own evaluator's figures, and its failures."""

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as evaluator
from PIL import Image
from pycocotools import mask as coco_mask

from s4m_pipeline.config.experiment import load_experiment
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.data.coco import CocoData, load_coco
from s4m_pipeline.evaluation.cityscapes import (
    CityscapesAP,
    benchmark_ap,
    claim_results,
    require_benchmark,
    write_results,
)
from s4m_pipeline.evaluation.mask_ap import mask_ap
from s4m_pipeline.models.checkpoint import write_weights
from s4m_pipeline.models.load import build_network
from s4m_stages.evaluate import evaluate

REPOSITORY = Path(__file__).parents[1]

Score = Callable[[list[dict[str, Any]]], CityscapesAP]


@pytest.fixture
def truth(mini_cityscapes: Path) -> CocoData:
    return load_coco(mini_cityscapes / "annotations/val.json", mini_cityscapes / "leftImg8bit/val")


@pytest.fixture
def score(truth: CocoData, mini_cityscapes: Path, tmp_path: Path) -> Score:
    """Writes predictions as files and has them scored."""

    def run(predictions: list[dict[str, Any]], jobs: int = 1) -> CityscapesAP:
        annotations = require_benchmark(truth, mini_cityscapes / "gtFine/val")
        claim_results(tmp_path / "results")
        written = write_results(tmp_path / "results", truth, predictions)
        return benchmark_ap([annotations[i] for i in written], list(written.values()), jobs=jobs)

    return run


def perfect(truth: CocoData) -> list[dict[str, Any]]:
    return [
        {**{key: entry[key] for key in ("image_id", "category_id", "segmentation")}, "score": 0.9}
        for image in truth.images
        for entry in truth.instances(image.id)
    ]


def imperfect(truth: CocoData) -> list[dict[str, Any]]:
    """Shifted, misnamed, doubled and missing predictions with many scores."""
    rng = np.random.default_rng(0)
    results = []
    for result in perfect(truth) * 3:
        moved = np.roll(coco_mask.decode(result["segmentation"]), rng.integers(-4, 5, 2), (0, 1))
        category = result["category_id"] if rng.random() < 0.8 else 26
        if rng.random() < 0.9:
            rle = coco_mask.encode(np.asfortranarray(moved))
            results.append({**result, "category_id": category, "segmentation": rle, "score": rng.random()})
    return results


def box(truth: CocoData, image_id: int, category_id: int, part: tuple[slice, slice]) -> dict[str, Any]:
    image = next(image for image in truth.images if image.id == image_id)
    mask = np.zeros((image.height, image.width), np.uint8, order="F")
    mask[part] = 1
    rle = coco_mask.encode(mask)
    return {"image_id": image_id, "category_id": category_id, "score": 0.5, "segmentation": rle}


def test_benchmark_ap__truth_as_predictions_gives_100_as_does_coco(truth: CocoData, score: Score) -> None:
    found = score(perfect(truth))
    assert (found.AP, found.AP50) == (100, 100)
    assert set(found.per_class.values()) == set(found.per_class_AP50.values()) == {100}
    assert mask_ap(truth, perfect(truth)).AP == 100


def test_benchmark_ap__is_what_the_evaluators_own_command_computes(
    truth: CocoData, score: Score, mini_cityscapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = score(imperfect(truth))
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "gtInstancesFile": "gt.json",
        "exportFile": str(tmp_path / "out/theirs.json"),
        "groundTruthSearch": str(mini_cityscapes / "gtFine/val/*/*_gtFine_instanceIds.png"),
        "predictionPath": str(tmp_path / "results"),
    }.items():
        monkeypatch.setattr(evaluator.args, name, value)
    monkeypatch.setattr(sys, "argv", ["evaluate"])
    evaluator.main()
    theirs = json.loads((tmp_path / "out/theirs.json").read_text())["averages"]
    assert 0 < found.AP < found.AP50 < 100
    assert pytest.approx((100 * theirs["allAp"], 100 * theirs["allAp50%"]), abs=1e-4) == (
        found.AP,
        found.AP50,
    )
    for name, figures in theirs["classes"].items():
        assert found.per_class[name] == pytest.approx(100 * figures["ap"], abs=1e-4)
        assert found.per_class_AP50[name] == pytest.approx(100 * figures["ap50%"], abs=1e-4)


def test_benchmark_ap__processes_do_not_change_it(truth: CocoData, score: Score, monkeypatch) -> None:
    monkeypatch.setattr("s4m_pipeline.core.parallel._ITEMS_PER_PROCESS", 5)
    assert score(imperfect(truth), jobs=2) == score(imperfect(truth))


def test_benchmark_ap__groups_and_void_cost_nothing_and_caravans_do(
    truth: CocoData, score: Score, mini_cityscapes: Path
) -> None:
    annotations = require_benchmark(truth, mini_cityscapes / "gtFine/val")
    values = {image_id: np.asarray(Image.open(path)) for image_id, path in annotations.items()}

    def extra(wanted: Callable[[np.ndarray], np.ndarray], category_id: int) -> list[dict[str, Any]]:
        masks = {image_id: wanted(found) for image_id, found in values.items()}
        image_id = max(masks, key=lambda i: masks[i].sum())
        assert masks[image_id].sum() > 100
        rle = coco_mask.encode(np.asfortranarray(masks[image_id]).view(np.uint8))
        # The most confident prediction of all, so that a false positive lowers the AP.
        return [{"image_id": image_id, "category_id": category_id, "score": 0.99, "segmentation": rle}]

    groups = [
        label
        for label in (24, 25, 26, 27, 28, 31, 32, 33)
        if any((v == label).any() for v in values.values())
    ]
    own_group = extra(lambda v: v == groups[0], groups[0])
    other = next(label for label in (24, 26) if label != groups[0])
    void = extra(lambda v: v == 0, 26)
    caravan = extra(lambda v: v // 1000 == 29, 26)
    assert score([*perfect(truth), *own_group, *void]).AP == 100
    assert score([*perfect(truth), *caravan]).AP < 100
    assert score([*perfect(truth), {**own_group[0], "category_id": other}]).AP < 100
    assert mask_ap(truth, [*perfect(truth), *own_group]).AP == 100
    assert mask_ap(truth, [*perfect(truth), *void]).AP < 100


def test_benchmark_ap__nothing_predicted_is_0(score: Score) -> None:
    assert score([]).AP == 0


def test_benchmark_ap__class_whose_predictions_are_all_ignored_is_0(truth: CocoData, score: Score) -> None:
    strip = box(truth, truth.images[0].id, 26, np.s_[-8:, :])  # the camera's own car: void
    found = score([result for result in perfect(truth) if result["category_id"] != 26] + [strip])
    assert found.per_class["car"] == 0
    assert found.per_class["person"] == 100


def test_write_results__files_are_as_the_benchmark_asks(
    truth: CocoData, score: Score, tmp_path: Path
) -> None:
    predictions = imperfect(truth)
    score(predictions)
    folder, lines = tmp_path / "results", []
    for image in truth.images:
        name = Path(image.file_name).name.replace("_leftImg8bit.png", "_pred.txt")
        lines += [line.split(" ") for line in (folder / name).read_text().splitlines()]
    assert len(lines) == len(predictions)
    by_place = sorted(predictions, key=lambda p: p["image_id"])
    for (path, label, confidence), prediction in zip(lines, by_place, strict=True):
        mask = np.asarray(Image.open(folder / path).convert("L"))
        assert (int(label), float(confidence)) == (prediction["category_id"], prediction["score"])
        assert np.array_equal(mask != 0, coco_mask.decode(prediction["segmentation"]).astype(bool))


def test_claim_results__replaces_results_and_nothing_else(tmp_path: Path) -> None:
    claim_results(tmp_path / "results")
    (tmp_path / "results/old.txt").touch()
    claim_results(tmp_path / "results")
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["results.json"]
    (tmp_path / "photo.png").touch()
    with pytest.raises(UserError, match="contains files that are not results"):
        claim_results(tmp_path)
    assert (tmp_path / "photo.png").exists()


def test_require_benchmark__missing_annotations_are_counted_with_what_to_fetch(
    truth: CocoData, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"(?s)10 of 10 annotations.*gtFine_trainvaltest\.zip"):
        require_benchmark(truth, tmp_path)


def test_require_benchmark__other_data_is_refused(tiny_coco: Any, tmp_path: Path) -> None:
    other = load_coco(tiny_coco.annotations("val"), tiny_coco.images("val"))
    with pytest.raises(UserError, match="no class bright, dark"):
        require_benchmark(other, tmp_path)


def test_require_benchmark__without_the_evaluator_says_what_to_install(truth, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "cityscapesscripts.evaluation", None)
    with pytest.raises(UserError, match=r"pip install 's4m-pipeline\[cityscapes\]'"):
        require_benchmark(truth, tmp_path)


@pytest.fixture
def demo_network(mini_cityscapes: Path, truth: CocoData, tmp_path: Path) -> tuple[Path, Path]:
    """A config that reads the miniature with the demo's network, and random weights."""

    config = tmp_path / "mini.py"
    config.write_text(
        f"""
_base_ = [{str(REPOSITORY / "configs/demo/demo.py")!r}]
data = dict(
    _delete_=True, root={str(mini_cityscapes)!r}, labeled="annotations/train.json",
    train_images="leftImg8bit/train", val="annotations/val.json", val_images="leftImg8bit/val",
)
teacher = dict(workers=0)
"""
    )
    model = build_network(load_experiment(config, [])[1], len(truth.class_names))
    model.init_weights()
    write_weights(tmp_path / "w.safetensors", model.state_dict(), tuple(truth.class_names))
    return config, tmp_path / "w.safetensors"


def test_evaluate__benchmark__prints_both_aps_and_leaves_the_results(
    demo_network: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(demo_network[0], [demo_network[1]], benchmark="cityscapes", as_json=True)
    report = json.loads(capsys.readouterr().out)
    official = report["cityscapes"]
    assert official.keys() == {field.name for field in dataclasses.fields(CityscapesAP)}
    assert official["per_class"].keys() == report["per_class"].keys()
    folder = tmp_path / "cityscapes_val"
    assert json.loads((folder / "results.json").read_text()) == official
    assert len(list(folder.glob("*_pred.txt"))) == 10
    assert len(list((folder / "masks").iterdir())) == report["predictions"] > 0
    evaluate(demo_network[0], [demo_network[1]], benchmark="cityscapes")
    assert "Cityscapes AP" in capsys.readouterr().out


def test_evaluate__benchmark_of_a_split_without_annotations_fails_before_predicting(
    demo_network: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, weights = demo_network
    predict = "s4m_pipeline.evaluation.checkpoint.predict_split"
    monkeypatch.setattr(predict, lambda *_: pytest.fail("predicted"))
    photos = tmp_path / "elsewhere/val"
    with pytest.raises(UserError, match="annotations that the benchmark reads are missing"):
        evaluate(config, [weights], benchmark="cityscapes", overrides=[f"data.val_images={photos}"])
