"""The data set that mmdet's pipelines read from."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmcv.transforms import TRANSFORMS

from s4m_cache.segmentation import decode_counts
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.data.loaders import coco_dataset, train_dataloader
from s4m_pipeline.models.registry import register_all
from tests.conftest import SIZE_PX

PIPELINE = [
    {"type": "LoadRGB"},
    {"type": "LoadInstances"},
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


def test_load_instances__of_any_annotation__gives_what_mmdet_loads(
    build: Any, document: dict[str, Any]
) -> None:
    """Polygons, also of several parts and partly outside, run lengths of both kinds, a crowd, no pixel."""
    one, two, three, four, five = document["annotations"][:5]
    one["segmentation"] = [[3.2, 4.7, 40.1, 6.0, 22.5, 51.3], [50, 50, 90, 50, 90, 70.5, 50, 70]]
    two["segmentation"] = [[10, 10, 12, 10, 12, 12.5], [1, 2, 3, 4]]
    runs = decode_counts(three["segmentation"]["counts"])
    three["segmentation"]["counts"], three["iscrowd"] = runs, 1
    four["segmentation"]["counts"] = [SIZE_PX * SIZE_PX - 3, 0, 0, 1, 0, 2]
    five["segmentation"]["counts"], five["iscrowd"] = [SIZE_PX * SIZE_PX], 1
    for entry in (one, two, three, four, five):
        entry["image_id"] = one["image_id"]
        del entry["bbox"], entry["area"]  # of another mask
    first = build(document).get_data_info(0)
    first |= {"img_shape": (SIZE_PX, SIZE_PX), "ori_shape": (SIZE_PX, SIZE_PX)}
    ours, theirs = (
        TRANSFORMS.build(kind)(copy.deepcopy(first))
        for kind in ({"type": "LoadInstances"}, {"type": "LoadAnnotations", "with_mask": True})
    )
    assert len(ours["gt_masks"]) == 5
    assert np.array_equal(ours["gt_masks"].to_ndarray(), theirs["gt_masks"].to_ndarray())
    assert torch.equal(ours["gt_bboxes"].tensor, theirs["gt_bboxes"].tensor)
    for name in ("gt_bboxes_labels", "gt_ignore_flags"):
        assert ours[name].dtype == theirs[name].dtype and np.array_equal(ours[name], theirs[name])


def test_dataset__crowd_is_not_learned_and_images_without_objects_stay(
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
    from s4m_pipeline.data.dataset import collate_instances

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
