"""Changed caches and weights: refused with a message, or read right; never a crash or a hang."""

import pickle
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from test_cache.samples import assert_same_labels, make_labels, make_published

from s4m_cache.generation import Generation
from s4m_cache.reader import CacheReader
from s4m_cache.verify import verify
from s4m_pipeline.config.sam_files import NANO_DIR
from s4m_pipeline.models.checkpoint import read_weights, write_weights
from s4m_pipeline.sam import build_sam
from tests.test_reliability.fuzzing import REFUSED, changed_bytes, changed_json, soon


@pytest.fixture(scope="module")
def generation(tmp_path_factory: pytest.TempPathFactory) -> Generation:
    return make_published(tmp_path_factory.mktemp("fuzz") / "cache", range(6))


@given(st.data())
def test_cache__changed_file__is_refused_or_the_labels_are_those_written(
    generation: Generation, data: st.DataObject
) -> None:
    files = sorted(path for path in generation.root.rglob("*") if path.is_file() and path.stat().st_size)
    path = data.draw(st.sampled_from(files))
    content = path.read_bytes()
    path.write_bytes(data.draw(changed_bytes(content)))
    changed = path.read_bytes() != content
    try:
        with soon():
            found = None
            try:
                found = verify(Generation(generation.root, 1))
                with CacheReader.current(generation.root) as reader:
                    for image_id in range(6):
                        assert_same_labels(reader.read(image_id, raw=True), make_labels(image_id))
            except REFUSED:
                pass
            if changed and path.is_relative_to(generation.path / "parts"):
                assert found is None or not found.sound
    finally:
        path.write_bytes(content)


TENSORS = {"backbone.weight": torch.arange(12.0).reshape(3, 4), "head.bias": torch.ones(2)}


@pytest.fixture(scope="module")
def weight_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("weights")
    write_weights(folder / "w.safetensors", TENSORS, ("cat", "dog"))
    torch.save({"state_dict": TENSORS, "meta": {"classes": ("cat", "dog")}}, folder / "w.pth")
    arrays = {name: tensor.numpy() for name, tensor in TENSORS.items()}
    (folder / "w.pkl").write_bytes(pickle.dumps({"model": arrays}))
    return {path.suffix: path.read_bytes() for path in folder.iterdir()}


@given(st.data())
def test_read_weights__changed_file__is_refused_or_gives_tensors(
    weight_files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    suffix = data.draw(st.sampled_from(sorted(weight_files)))
    path = tmp_path_factory.getbasetemp() / f"changed{suffix}"
    path.write_bytes(data.draw(changed_bytes(weight_files[suffix])))
    with soon():
        try:
            found = read_weights(path).tensors
        except REFUSED:
            return
    assert all(isinstance(tensor, torch.Tensor) for tensor in found.values())
    if suffix == ".pth":  # has checksums
        assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())


SMALL = st.sampled_from([None, -1, 0, 3, 0.5, "", "os.system", "${model}", "${x}", [], [1], {}, {"a": 1}])


@given(changed_json(yaml.safe_load((NANO_DIR / "nano.yaml").read_text()), SMALL))
def test_build_sam__changed_yaml__is_refused_or_built(
    tmp_path_factory: pytest.TempPathFactory, config: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / "changed.yaml"
    path.write_text(yaml.safe_dump(config))
    with soon():
        try:
            network = build_sam(path)
        except REFUSED:
            return
    assert isinstance(network, torch.nn.Module)
