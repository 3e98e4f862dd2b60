"""Published weights by name: fetched from a server on the loopback, used only whole, and recorded."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save

from s4m_pipeline.config import weight_files
from s4m_pipeline.config.weight_files import HUGGING_FACE, find_weights, is_weights, weights_here, zoo
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.models.checkpoint import read_weights
from tests.published import pth

R50 = "mask2former_r50_8xb2-lsj-50e_coco"
SWIN = HUGGING_FACE[0]


def of_mmdet(checkpoint: Path, classes: tuple[str, ...]) -> bytes:
    """A checkpoint as mmdet publishes it."""
    return pth({"state_dict": load_file(checkpoint), "meta": {"CLASSES": classes, "epoch": 50}})


def test_zoo__of_the_installed_mmdet__has_the_networks_of_its_list():
    address = zoo()[R50]
    assert address.endswith("/mask2former_r50_8xb2-lsj-50e_coco_20220506_191028-41b088b6.pth")
    assert "mask2former_swin-t-p4-w7-224_8xb2-lsj-50e_coco" in zoo()


def test_mmdet_name__is_fetched_once_and_read(weights_server, tiny_checkpoint, monkeypatch):
    path = weights_server.publish(R50, of_mmdet(tiny_checkpoint, ("bright", "dark")))
    assert weights_here(f"mmdet://{R50}") is None
    for source in (f"mmdet://{R50}", Path(f"mmdet://{R50}")):  # a Path keeps one slash
        assert is_weights(Path(source))
        weights = read_weights(source)
        weights_server.files.clear()
    assert weights.classes == ("bright", "dark")
    assert weights.published
    assert (
        weights.file.digest()
        == f"sha256:{hashlib.sha256(of_mmdet(tiny_checkpoint, weights.classes)).hexdigest()[:16]} (mmdet://{R50})"
    )
    assert weights_here(f"mmdet://{R50}") == weights.file
    assert weights.path.name == path.rpartition("/")[2]


def test_mmdet_name__file_without_class_names__has_those_of_coco(weights_server):
    weights_server.publish(R50, pth({"state_dict": {"panoptic_head.cls_embed.weight": torch.zeros(81, 2)}}))
    classes = read_weights(f"mmdet://{R50}").classes
    assert classes is not None
    assert (len(classes), classes[:2]) == (80, ("person", "bicycle"))


@pytest.mark.parametrize("fault", ["cut off", "other content", "absent"])
def test_mmdet_name__bad_download__is_never_used(weights_server, monkeypatch, fault):
    path = weights_server.publish(R50, b"weights" * 1000)
    {"cut off": weights_server.halved.add, "other content": weights_server.altered.add}.get(
        fault, weights_server.files.pop
    )(path)
    message = rf"(?s)mmdet://{R50} is no file here, and fetching it failed.*curl .*{path}.*same place here"
    with pytest.raises(UserError, match=message):
        find_weights(f"mmdet://{R50}")
    assert [file for file in weight_files.zoo_file(R50).parent.iterdir() if file.is_file()] == []


def test_mmdet_name__damaged_file_of_earlier__is_refused(weights_server, monkeypatch):
    weights_server.publish(R50, b"weights")
    find_weights(f"mmdet://{R50}").path.write_bytes(b"weight")
    with pytest.raises(
        UserError, match=r"is damaged: its SHA-256 begins with \w{8}, \w{8} expected.\nDelete it"
    ):
        find_weights(f"mmdet://{R50}")


def test_unknown_names__are_answered_with_the_nearest(weights_server):
    with pytest.raises(UserError, match=rf"nearest are: mmdet://{R50},"):
        find_weights("mmdet://mask2former_r50_coco")
    with pytest.raises(UserError, match=rf"(?s)The hub has {SWIN}.*hf download"):
        find_weights("facebook/mask2former-swin-tiny-coco")


def test_hub_name__is_fetched_with_its_classes(weights_server):
    tensors = {"model.pixel_level_module.decoder.level_embed": torch.ones(3, 2)}
    labels = json.dumps({"id2label": {"0": "person", "1": "car"}}).encode()
    weights_server.publish_on_hub(SWIN, {"model.safetensors": save(tensors), "config.json": labels})
    for _ in range(2):
        weights = read_weights(SWIN)
        weights_server.files.clear()
    assert weights.classes == ("person", "car")
    assert list(weights.tensors) == ["panoptic_head.pixel_decoder.level_encoding.weight"]
    weights.path.resolve().write_bytes(b"other")
    with pytest.raises(UserError, match="is damaged: its SHA-256 begins with"):
        find_weights(SWIN)


@pytest.mark.parametrize("fault", ["cut off", "no safetensors"])
def test_hub_name__bad_download__is_never_used(weights_server, monkeypatch, fault):
    path = f"/{SWIN}/resolve/main/model.safetensors"
    weights_server.publish_on_hub(SWIN, {"config.json": b"{}"})
    if fault == "cut off":
        monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the client's attempts
        weights_server.files[path] = bytes(2000)
        weights_server.halved.add(path)
    with pytest.raises(UserError, match=rf"(?s){SWIN} is no file here.*hf download.*only safetensors"):
        find_weights(SWIN)
    assert weights_here(SWIN) is None


def test_hub_name__other_content_than_its_checksum__is_never_used(weights_server):
    weights_server.publish_on_hub(SWIN, {"config.json": b"{}", "model.safetensors": bytes(range(200))})
    weights_server.altered.add(f"/{SWIN}/resolve/main/model.safetensors")
    for _ in range(2):
        with pytest.raises(UserError, match=r"is damaged: its SHA-256 begins with \w+, \w+ expected"):
            find_weights(SWIN)
