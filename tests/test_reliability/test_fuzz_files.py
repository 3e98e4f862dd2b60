"""Changed caches and weights: refused with a message, or read right; never a crash or a hang."""

import json
import pickle
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save
from test_cache.samples import assert_same_labels, make_labels, make_published

from s4m_cache import sealed
from s4m_cache.generation import SPEC, Generation
from s4m_cache.generations import CURRENT
from s4m_cache.parts import MANIFEST
from s4m_cache.reader import CacheReader
from s4m_cache.sharding import ShardSpec
from s4m_cache.verify import verify
from s4m_pipeline.config.sam_files import NANO_DIR
from s4m_pipeline.evaluation.matches import Matches
from s4m_pipeline.models.checkpoint import read_weights, write_weights
from s4m_pipeline.refine.record import ShardRecord
from s4m_pipeline.sam import build_sam
from tests.test_reliability.fuzzing import REFUSED, changed_bytes, changed_json, soon

SHARD = ShardSpec(1, 1)
NOTE = ShardRecord(images=6, seconds=1.5, unreadable={"3": ["a.png", "is empty"]})


@pytest.fixture(scope="module")
def generation(tmp_path_factory: pytest.TempPathFactory) -> Generation:
    found = make_published(tmp_path_factory.mktemp("fuzz") / "cache", range(6))
    NOTE.write(found, SHARD)
    return found


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
            assert ShardRecord.read(generation, SHARD) in (NOTE, ShardRecord())
            if changed and path.is_relative_to(generation.path / "parts"):
                assert found is None or not found.sound
    finally:
        path.write_bytes(content)


SMALL = st.sampled_from([None, -1, 0, 3, 0.5, "", "os.system", "${model}", "${x}", [], [1], {}, {"a": 1}])


@given(st.data())
def test_cache__changed_fields_under_a_right_checksum__are_refused_or_read(
    generation: Generation, data: st.DataObject
) -> None:
    """As another program may write them: a checksum tells nothing about these."""
    parts = [part / MANIFEST for part in generation.part_paths()]
    path = data.draw(st.sampled_from([generation.root / CURRENT, generation.path / SPEC, *parts]))
    content = path.read_bytes()
    sealed.write(path, data.draw(changed_json(sealed.read(path), SMALL)) or {"nothing": 0})
    try:
        with soon(), suppress(*REFUSED):
            verify(Generation(generation.root, 1))
            with CacheReader.current(generation.root) as reader:
                for image_id in range(6):
                    reader.read(image_id, raw=True)
    finally:
        path.write_bytes(content)


@pytest.fixture(scope="module")
def matches() -> Matches:
    rng = np.random.default_rng(0)
    return Matches(
        image_ids=np.arange(4),
        num_objects=np.ones((4, 2), np.int64),
        image=np.arange(4).repeat(3),
        label=rng.integers(0, 2, 12),
        score=rng.random(12),
        matched=rng.random((12, 10)) < 0.5,
        ignored=np.zeros((12, 10), bool),
    )


@given(st.data())
def test_matches__changed_file__is_refused_or_as_written(
    matches: Matches, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "matches.npz"
    matches.save(path)
    path.write_bytes(data.draw(changed_bytes(path.read_bytes())))
    with soon():
        try:
            found = Matches.load(path)
        except REFUSED as error:
            assert "s4m evaluate" in str(error)
            return
    for name, array in vars(matches).items():
        np.testing.assert_array_equal(getattr(found, name), array)


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


CHECKPOINT = {
    "state_dict": TENSORS,
    "meta": {"iter": 3, "classes": ["cat", "dog"], "dataset_meta": {"CLASSES": ["cat", "dog"]}},
}


@given(changed_json(CHECKPOINT), st.booleans())
def test_read_weights__changed_metadata__is_refused_or_gives_tensors_and_names(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: Any, in_header: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / ("meta.safetensors" if in_header else "meta.pth")
    if in_header:
        meta = checkpoint.get("meta")
        path.write_bytes(save(TENSORS, {"classes": json.dumps(meta), "config": ascii(meta)}))
    else:
        torch.save(checkpoint, path)
    with soon():
        try:
            found = read_weights(path)
        except REFUSED:
            return
    assert all(isinstance(name, str) and isinstance(t, torch.Tensor) for name, t in found.tensors.items())
    assert found.classes is None or all(isinstance(name, str) for name in found.classes)


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
