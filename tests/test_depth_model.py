"""`s4m data depth` with a random network of Depth Anything's architecture in place of the downloaded one."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from s4m_pipeline.core.errors import UserError
from s4m_pipeline.data.depth_files import read_depth
from s4m_pipeline.data.depth_model import write_depth


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the hub has it."""
    transformers = pytest.importorskip("transformers")
    import torch

    torch.manual_seed(0)
    backbone = transformers.Dinov2Config(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
        out_features=["stage1", "stage2", "stage3", "stage4"],
        reshape_hidden_states=False,
        apply_layernorm=True,
    )
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone,
        patch_size=14,
        reassemble_hidden_size=16,
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        head_hidden_size=8,
    )
    folder = tmp_path_factory.mktemp("model")
    transformers.DepthAnythingForDepthEstimation(config).save_pretrained(folder)
    transformers.DPTImageProcessor(
        size={"height": 56, "width": 56}, ensure_multiple_of=14, keep_aspect_ratio=True
    ).save_pretrained(folder)
    return folder


def test_write_depth__images_in_folders__have_maps_of_their_size_that_are_kept(model, tmp_path):
    rng = np.random.default_rng(0)
    for name, size in (("train/city/a.jpg", (40, 60)), ("train/b.png", (64, 48))):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    out = tmp_path / "depth/train"
    assert write_depth(tmp_path / "train", out, str(model)) == 2
    found = read_depth(tmp_path / "train/city/a.jpg", "depth", (40, 60))
    assert (found.min(), found.max()) == (0, 255)
    kept = (out / "city/a.png").stat().st_mtime_ns
    (out / "b.png").unlink()
    assert write_depth(tmp_path / "train", out, str(model)) == 2
    assert (out / "city/a.png").stat().st_mtime_ns == kept
    assert read_depth(tmp_path / "train/b.png", "depth", (64, 48)).max() == 255


def test_write_depth__nothing_to_do_or_to_do_it_with__is_said(tmp_path):
    with pytest.raises(UserError, match="no images in it"):
        write_depth(tmp_path, tmp_path / "depth", "any")
    pytest.importorskip("transformers")
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty cannot be loaded \("):
        write_depth(tmp_path, tmp_path / "depth", str(tmp_path / "empty"))
