"""Mask AP, its two backends, the network's prediction, and the command."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from s4m_cache.masks import Masks
from s4m_pipeline.config.experiment import load_experiment
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.data.coco import CocoData, load_coco
from s4m_pipeline.data.packed_masks import pack_masks
from s4m_pipeline.evaluation.mask_ap import coco_results, mask_ap
from s4m_pipeline.models.checkpoint import write_weights
from s4m_pipeline.models.load import build_network
from s4m_stages.evaluate import evaluate

BACKENDS = ("faster_coco_eval", "pycocotools")


@pytest.fixture
def truth(tiny_coco: Any) -> CocoData:
    return load_coco(tiny_coco.annotations("train"), tiny_coco.images("train"))


def perfect(truth: CocoData) -> list[dict[str, Any]]:
    return [
        {**{key: entry[key] for key in ("image_id", "category_id", "segmentation")}, "score": 0.9}
        for entries in truth.annotations.values()
        for entry in entries
    ]


def imperfect(truth: CocoData) -> list[dict[str, Any]]:
    """Shifted, misnamed, doubled and missing predictions with many scores, some of them equal."""
    rng = np.random.default_rng(0)
    results = []
    for result in perfect(truth) * 3:
        mask = coco_mask.decode(result["segmentation"])
        moved = np.asfortranarray(np.roll(mask, rng.integers(-4, 5, 2), (0, 1)))
        category = result["category_id"] if rng.random() < 0.8 else int(rng.choice([10, 20]))
        if rng.random() < 0.9:
            results.append(
                {
                    **result,
                    "category_id": category,
                    "segmentation": coco_mask.encode(moved),
                    "score": round(float(rng.random()), 1),
                }
            )
    return results


@pytest.mark.parametrize("backend", BACKENDS)
def test_mask_ap__perfect_predictions_reach_100(backend: str, truth: CocoData) -> None:
    found = mask_ap(truth, perfect(truth), backend=backend)
    assert (found.AP, found.AP50, found.AP75) == (100, 100, 100)
    assert found.per_class == {"bright": 100, "dark": 100}
    assert found.AP_large is None
    assert (found.images, found.instances, found.predictions, found.backend) == (6, 12, 12, backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_mask_ap__annotation_ids_from_0__change_no_number(
    backend: str, truth: CocoData, tiny_coco: Any, tmp_path: Path
) -> None:
    document = json.loads(tiny_coco.annotations("train").read_text())
    for annotation in document["annotations"]:
        annotation["id"] -= 1
    (tmp_path / "from_0.json").write_text(json.dumps(document))
    renumbered = load_coco(tmp_path / "from_0.json", tiny_coco.images("train"))
    assert mask_ap(renumbered, imperfect(truth), backend=backend) == mask_ap(
        truth, imperfect(truth), backend=backend
    )


def test_mask_ap__both_packages_give_the_same_numbers(truth: CocoData) -> None:
    one, other = (dataclasses.asdict(mask_ap(truth, imperfect(truth), backend=name)) for name in BACKENDS)
    assert 0 < one["AP"] < 100
    del one["backend"], other["backend"]
    assert one == other


@pytest.mark.parametrize("backend", BACKENDS)
def test_mask_ap__no_predictions_score_zero(backend: str, truth: CocoData) -> None:
    found = mask_ap(truth, [], backend=backend)
    assert (found.AP, found.AP50, found.per_class) == (0, 0, {"bright": 0, "dark": 0})


@pytest.mark.parametrize("backend", BACKENDS)
def test_mask_ap__wrong_class_and_crowd_count_as_coco_says(backend: str, tmp_path: Path) -> None:
    def square(left: int) -> dict[str, Any]:
        mask = np.zeros((64, 64), np.uint8, order="F")
        mask[10:30, left : left + 20] = 1
        rle = coco_mask.encode(mask)
        return {"size": rle["size"], "counts": rle["counts"].decode()}

    entry = {"image_id": 1, "bbox": [0, 10, 20, 20], "area": 400}
    document = {
        "images": [{"id": 1, "file_name": "1.png", "width": 64, "height": 64}],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [
            {**entry, "id": 1, "category_id": 1, "iscrowd": 0, "segmentation": square(0)},
            {**entry, "id": 2, "category_id": 1, "iscrowd": 1, "segmentation": square(40)},
        ],
    }
    (tmp_path / "d.json").write_text(json.dumps(document))
    truth = load_coco(tmp_path / "d.json", tmp_path)
    right = {"image_id": 1, "category_id": 1, "score": 0.5, "segmentation": square(0)}
    on_crowd = {"image_id": 1, "category_id": 1, "score": 0.9, "segmentation": square(40)}
    misnamed = {**right, "category_id": 2}
    assert mask_ap(truth, [right, on_crowd], backend=backend).AP == 100
    assert mask_ap(truth, [misnamed], backend=backend).AP == 0
    assert mask_ap(truth, [right, misnamed], backend=backend).per_class == {"a": 100, "b": None}


def test_coco_results__masks_survive_encoding() -> None:
    masks = torch.rand(3, 20, 30) > 0.5
    masks[1] = False
    instances = {
        "labels": torch.tensor([1, 0, 1]),
        "scores": torch.tensor([0.5, 0.25, 1.0]),
        "masks": pack_masks(masks),
    }
    results = coco_results(7, (20, 30), [10, 20], instances)
    assert [result["category_id"] for result in results] == [20, 10, 20]
    assert [result["score"] for result in results] == [0.5, 0.25, 1.0]
    for result, mask in zip(results, masks, strict=True):
        assert np.array_equal(coco_mask.decode(result["segmentation"]), mask.numpy())
    nothing = {"labels": torch.zeros(0), "scores": torch.zeros(0), "masks": Masks.empty(0)}
    assert coco_results(7, (20, 30), [10, 20], nothing) == []


@pytest.fixture
def network(tiny_config: Path) -> Any:
    torch.manual_seed(0)
    _, config = load_experiment(tiny_config, [])
    model = build_network(config, 2)
    model.init_weights()
    return model.eval()


@pytest.mark.parametrize("rescale", [True, False])
def test_predict__equals_mmdets_own_prediction(rescale: bool, network: Any) -> None:
    from mmdet.models import Mask2Former
    from mmdet.structures import DetDataSample

    network.test_cfg["max_per_image"] = 20
    meta = {"img_shape": (60, 80), "ori_shape": (90, 120), "batch_input_shape": (64, 96)}

    def samples() -> list[DetDataSample]:
        return [DetDataSample(metainfo=meta) for _ in range(2)]

    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        ours = network.predict(images, samples(), rescale=rescale)
        network.test_cfg["panoptic_on"] = False
        network.panoptic_fusion_head.test_cfg = {**network.test_cfg, "instance_on": True}
        theirs = Mask2Former.predict(network, images, samples(), rescale=rescale)
    height, width = meta["ori_shape"] if rescale else meta["img_shape"]
    for one, other in zip(ours, theirs, strict=True):
        one, other = one.pred_instances, other.pred_instances
        first, second = (torch.argsort(found.scores, stable=True) for found in (one, other))
        assert len(one) == 20
        masks = one.masks.select(first.numpy()).dense((0, 0, height, width))
        np.testing.assert_array_equal(masks, other.masks[second].numpy())
        assert torch.equal(one.labels[first], other.labels[second])
        assert torch.allclose(one.scores[first], other.scores[second])


def test_predict__more_asked_than_queries_times_classes_gives_them_all(network: Any) -> None:
    from mmdet.structures import DetDataSample

    network.test_cfg["max_per_image"] = 100
    meta = {"img_shape": (64, 64), "ori_shape": (64, 64), "batch_input_shape": (64, 64)}
    with torch.no_grad():
        (sample,) = network.predict(torch.randn(1, 3, 64, 64), [DetDataSample(metainfo=meta)])
    assert len(sample.pred_instances) == 15 * 2


def test_evaluate__json_holds_every_number(
    tiny_config: Path, tmp_path: Path, network: Any, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "w.safetensors"
    write_weights(path, network.state_dict(), ("bright", "dark"))
    capsys.readouterr()
    evaluate(tiny_config, [path], split="test", overrides=None, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found.keys() >= {"AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "backend"}
    assert found["per_class"].keys() == {"bright", "dark"}
    assert (found["images"], found["instances"], found["predictions"]) == (2, 4, 60)


def test_evaluate__several_checkpoints_give_a_list_of_what_each_gives_alone(
    tiny_config: Path, tmp_path: Path, network: Any, tiny_checkpoint: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "w.safetensors"
    write_weights(path, network.state_dict(), ("bright", "dark"))
    capsys.readouterr()
    evaluate(tiny_config, [path, tiny_checkpoint], as_json=True)
    both = json.loads(capsys.readouterr().out)
    for found, checkpoint in zip(both, (path, tiny_checkpoint), strict=True):
        evaluate(tiny_config, [checkpoint], as_json=True)
        assert json.loads(capsys.readouterr().out) == found


def test_evaluate__checkpoint_of_other_classes_is_refused_with_both_lists(
    tiny_config: Path, tmp_path: Path, network: Any
) -> None:
    path = tmp_path / "w.safetensors"
    write_weights(path, network.state_dict(), ("bright", "black"))
    with pytest.raises(UserError, match=r"(?s)bright, black.*bright, dark"):
        evaluate(tiny_config, [path])


def test_evaluate__checkpoint_of_another_network_is_refused(
    tiny_config: Path, tmp_path: Path, network: Any
) -> None:
    path = tmp_path / "w.safetensors"
    write_weights(path, network.state_dict(), ("bright", "dark"))
    with pytest.raises(UserError, match="does not fit the model of this config"):
        evaluate(tiny_config, [path], overrides=["model.panoptic_head.num_queries=4"])


@pytest.mark.parametrize("workers", [0, 1])
def test_evaluate__unreadable_image__is_named(
    workers: int, tiny_config: Path, tiny_coco: Any, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    images = tmp_path / "val"
    shutil.copytree(tiny_coco.images("val"), images)
    (images / "2.png").unlink()
    settings = [f"data.val_images={images}", f"teacher.workers={workers}"]
    with pytest.raises(UserError, match=rf"^{images}/2\.png: no such file"):
        evaluate(tiny_config, [tiny_checkpoint], overrides=settings)


def test_evaluate__json_is_all_that_reaches_stdout(tiny_config: Path, tmp_path: Path, network: Any) -> None:
    path = tmp_path / "w.safetensors"
    write_weights(path, network.state_dict(), ("bright", "dark"))
    command = [sys.executable, "-m", "s4m_stages", "evaluate", str(tiny_config), str(path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["images"] == 3
