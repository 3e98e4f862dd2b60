"""The data set that mmdet's pipelines read from."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from s4m_pipeline.engine.parts import coco_dataset, train_dataloader
from s4m_pipeline.errors import UserError
from s4m_pipeline.registry import register_all

PIPELINE = [
    {"type": "LoadRGB"},
    {"type": "LoadAnnotations", "with_bbox": True, "with_mask": True},
    {"type": "PackDetInputs"},
]


@pytest.fixture
def document(tiny_coco: Any) -> dict[str, Any]:
    """The tiny training annotations, to be changed."""
    return json.loads(tiny_coco.annotations("train").read_text())


@pytest.fixture
def build(tiny_coco: Any, tmp_path: Path) -> Any:
    def build_dataset(document: dict[str, Any]) -> Any:
        from mmengine.registry import DATASETS

        register_all()
        (tmp_path / "d.json").write_text(json.dumps(document))
        return DATASETS.build(coco_dataset(tmp_path / "d.json", tiny_coco.images("train"), PIPELINE))

    return build_dataset


def test_dataset__labels_follow_category_ids_whatever_the_order_of_the_json(
    build: Any, document: dict[str, Any]
) -> None:
    document["categories"].reverse()
    dataset = build(document)
    assert dataset.metainfo["classes"] == ("bright", "dark")
    for index in range(len(dataset)):
        sample = dataset[index]["data_samples"]
        given = [entry for entry in document["annotations"] if entry["image_id"] == sample.img_id]
        labels = [entry["category_id"] // 10 - 1 for entry in given]
        assert sample.gt_instances.labels.tolist() == labels
        image = dataset[index]["inputs"].numpy()
        for mask, label in zip(sample.gt_instances.masks.masks, labels, strict=True):
            assert np.all(image[:, mask.astype(bool)] == (240, 10)[label])


def test_dataset__crowd_is_not_learnt_and_images_without_objects_stay(
    build: Any, document: dict[str, Any]
) -> None:
    document["annotations"][0]["iscrowd"] = 1
    document["annotations"] = [entry for entry in document["annotations"] if entry["image_id"] != 2]
    dataset = build(document)
    counts = [len(dataset[index]["data_samples"].gt_instances) for index in range(len(dataset))]
    assert counts == [1, 0, 2, 2, 2, 2]


def test_dataset__image_of_another_size_than_its_annotations_is_an_error_naming_both(
    build: Any, document: dict[str, Any], tiny_coco: Any
) -> None:
    document["images"][0]["width"] = 80
    with pytest.raises(
        UserError, match=r"1\.png: is 64 x 64 pixels upright, listed as 80 x 64(.|\n)*data check"
    ):
        build({**document, "annotations": document["annotations"][2:]})[0]


def test_dataset__unreadable_image_names_the_file(build: Any, document: dict[str, Any]) -> None:
    document["images"][0]["file_name"] = "absent.png"
    with pytest.raises(UserError, match=r"absent\.png"):
        build(document)[0]


def test_collate__keeps_images_labels_and_masks_and_no_other_tensor(
    build: Any, document: dict[str, Any]
) -> None:
    from s4m_pipeline.engine.dataset import collate_instances

    document["annotations"][0]["iscrowd"] = 1
    dataset = build(document)
    whole, batch = [dataset[index] for index in range(3)], collate_instances([dataset[i] for i in range(3)])
    for image, sample, loaded in zip(batch["inputs"], batch["data_samples"], whole, strict=True):
        kept, given = sample.gt_instances, loaded["data_samples"].gt_instances
        assert torch.equal(image, loaded["inputs"])
        assert kept.labels.dtype == np.int64
        assert kept.labels.tolist() == given.labels.tolist()
        np.testing.assert_array_equal(kept.masks.masks, given.masks.masks)
        assert set(kept.keys()) == {"labels", "masks"}
        assert set(sample.keys()) == {"gt_instances"}
        assert sample.img_shape == loaded["data_samples"].img_shape


def test_loader__its_processes_send_one_tensor_an_image(tiny_coco: Any, tmp_path: Path) -> None:
    """Each takes a file handle."""
    from mmengine.runner import Runner

    register_all()
    data = coco_dataset(tiny_coco.annotations("train"), tiny_coco.images("train"), PIPELINE)
    loader = Runner.build_dataloader(train_dataloader(data, batch_size=4, workers=0, seed=0))
    batch = next(iter(loader))
    tensors = [value for value in _values(batch) if isinstance(value, torch.Tensor)]
    assert [tensor.dtype for tensor in tensors] == [torch.uint8] * 4


def _values(part: Any) -> list[Any]:
    if isinstance(part, dict):
        return [value for item in part.values() for value in _values(item)]
    if isinstance(part, list):
        return [value for item in part for value in _values(item)]
    return _values(dict(part.items())) if hasattr(part, "items") else [part]
