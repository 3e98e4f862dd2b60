"""The small network's initial weights: what is kept of a trained network."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from s4m_pipeline.config.loading import load_config
from s4m_pipeline.core.paths import CONFIGS
from s4m_pipeline.models.checkpoint import read_weights, write_weights
from s4m_pipeline.models.demo_init import make
from s4m_pipeline.models.fitting import initialize, require_fit
from s4m_pipeline.models.load import build_network


def test_strip__drops_the_class_layer_and_halves_floating_point_numbers(tmp_path, monkeypatch):
    trained = {
        "backbone.conv1.weight": torch.ones(2, 3),
        "backbone.bn1.num_batches_tracked": torch.tensor(7),
        "panoptic_head.query_feat.weight": torch.ones(100, 4),
        "panoptic_head.cls_embed.weight": torch.ones(2, 4),
    }
    save_file(trained, tmp_path / "weights.safetensors")
    monkeypatch.setattr(make, "SHIPPED", tmp_path / "shipped.safetensors")
    make.strip(tmp_path / "weights.safetensors")
    kept = load_file(tmp_path / "shipped.safetensors")
    assert kept.keys() == trained.keys() - {"panoptic_head.cls_embed.weight"}
    assert kept["panoptic_head.query_feat.weight"].dtype == torch.float16
    assert kept["backbone.bn1.num_batches_tracked"] == 7


def test_scenes__are_class_agnostic_and_without_the_demos_families(tmp_path, monkeypatch):
    monkeypatch.setattr(make, "SUBSETS", (make.Subset("train", 0, 3),))
    make.write_class_agnostic_scenes(tmp_path)
    assert len(list((tmp_path / "train").glob("*.png"))) == 3
    assert '"categories": [{"id": 1, "name": "object"}]' in (tmp_path / "train.json").read_text()


@pytest.mark.parametrize(("queries", "lacking"), [(15, 0), (120, 20)])
def test_stripped_network__starts_one_with_other_classes_and_queries(queries, lacking, tmp_path, monkeypatch):
    config, _ = load_config(CONFIGS / "demo/init.py")
    source = build_network(config, 1)
    write_weights(tmp_path / "weights.safetensors", source.state_dict(), ("object",))
    monkeypatch.setattr(make, "SHIPPED", tmp_path / "shipped.safetensors")
    make.strip(tmp_path / "weights.safetensors")
    weights, classes = read_weights(make.SHIPPED), ("a", "b", "c")

    config["model"]["panoptic_head"]["num_queries"] = queries
    target = build_network(config, len(classes))
    require_fit(target, weights, classes)
    line = initialize(target, weights, classes)
    assert line.endswith(f"; {lacking} queries that it lacks start at random") == bool(lacking)
    taken = min(queries, 100)
    for name in ("query_embed", "query_feat"):
        rows = [getattr(network.panoptic_head, name).weight[:taken].half() for network in (source, target)]
        assert torch.equal(*rows)
    decoders = [network.panoptic_head.transformer_decoder.state_dict() for network in (source, target)]
    assert all(torch.equal(decoders[0][name].half(), decoders[1][name].half()) for name in decoders[0])
