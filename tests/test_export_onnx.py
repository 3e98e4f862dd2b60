"""`s4m export onnx`: ONNX Runtime and the NumPy of docs/export.md find what torch finds."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from s4m_pipeline.apps.export import onnx_file
from s4m_pipeline.apps.predict.predictor import Predictor
from s4m_pipeline.core.errors import UserError
from s4m_stages.export import onnx
from tests.conftest import CLASSES, REPOSITORY

SMALL = [
    "model.panoptic_head.transformer_decoder.num_layers=2",
    "model.panoptic_head.pixel_decoder.encoder.num_layers=1",
    "refine.nms_iou=0.5",
]
"""Tracing takes as long as there are layers."""


@pytest.fixture(scope="module")
def small_checkpoint(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny weights without the layers that the small network lacks, and with confident classes."""
    from s4m_pipeline.models.checkpoint import read_weights, write_weights

    dropped = re.compile(r"transformer_decoder\.layers\.[2-9]|encoder\.layers\.[1-9]")
    tensors = {k: v for k, v in read_weights(tiny_checkpoint).tensors.items() if not dropped.search(k)}
    tensors["panoptic_head.cls_embed.weight"] = 40 * tensors["panoptic_head.cls_embed.weight"]
    path = tmp_path_factory.mktemp("small") / "weights.safetensors"
    write_weights(path, tensors, CLASSES)
    return path


@pytest.mark.slow
def test_onnx__documented_numpy_finds_what_torch_finds(
    tiny_config: Path, small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    onnx(tiny_config, [small_checkpoint, Path("network.onnx")], overrides=SMALL)
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (8, 8, 3), dtype=np.uint8) for _ in range(3)]
    sizes = [(96, 64), (50, 90), (130, 131)]  # of one tile of padding, of none, of neither parity
    images = [
        np.asarray(Image.fromarray(picture).resize(size))
        for picture, size in zip(pictures, sizes, strict=True)
    ]
    Image.fromarray(images[0]).save("photo.jpg")
    text = (REPOSITORY / "docs/export.md").read_text()
    (example,) = re.findall(r"```python\n(import json.*?)```", text, re.DOTALL)
    documented: dict[str, Any] = {}
    exec(example, documented)

    predictor = Predictor(tiny_config, small_checkpoint, overrides=SMALL, min_score=0.3, device="cpu")
    total = 0
    for image in images:
        ours = predictor.predict(image)
        classes, scores, masks = documented["predict"](image, min_score=0.3)
        assert [CLASSES[label] for label in ours.labels] == classes
        np.testing.assert_allclose(scores, ours.scores, atol=1e-4)
        assert (masks != ours.masks).sum() <= 1e-4 * masks.size
        total += len(ours)
    assert total >= 3

    batch = np.concatenate([np.zeros((1, 3, 64, 96)), rng.normal(size=(2, 3, 64, 96))]).astype(np.float32)
    together = documented["session"].run(None, {"images": batch})
    alone = documented["session"].run(None, {"images": batch[2:]})
    for several, one in zip(together, alone, strict=True):
        np.testing.assert_allclose(several[2:], one, atol=1e-4)


def test_onnx__missing_package_or_faulty_file_name_says_what_to_do(
    tiny_config: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"ends in \.onnx"):
        onnx(tiny_config, [tiny_checkpoint, tmp_path / "out.pt"])
    monkeypatch.setattr(onnx_file, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r's4m-pipeline\[onnx\]"'):
        onnx(tiny_config, [tiny_checkpoint, tmp_path / "out.onnx"])
    monkeypatch.setattr(onnx_file, "find_spec", lambda name: name)
    with pytest.raises(UserError, match="multiples of 32"):
        onnx(tiny_config, [tiny_checkpoint, tmp_path / "out.onnx"], (100, 64))
