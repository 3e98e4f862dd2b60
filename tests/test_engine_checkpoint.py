"""Checkpoints: whole or absent, safe to read, and refused where they do not fit."""

import errno
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from s4m_pipeline.config.weight_files import WeightFile
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.experiment.checkpoints import latest_checkpoint
from s4m_pipeline.models.checkpoint import (
    AtomicBackend,
    Weights,
    read_weights,
    require_classes,
    write_weights,
)
from s4m_pipeline.models.fitting import initialize, load_weights, require_fit
from s4m_pipeline.models.unpickling import load_checkpoint
from tests.conftest import CreatesFile


def model(classes: int = 2) -> nn.Module:
    head = nn.ModuleDict(
        {
            "pixel_decoder": nn.Linear(4, 4),
            "cls_embed": nn.Linear(4, classes + 1),
            "query": nn.Linear(4, 4),
        }
    )
    return nn.ModuleDict({"backbone": nn.Linear(3, 4), "panoptic_head": head})


def weights(classes: tuple[str, ...] | None, of: nn.Module) -> Weights:
    return Weights(WeightFile(path=Path("given.safetensors")), of.state_dict(), classes)


def test_atomic_backend__failed_write_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "iter_1.pth"
    AtomicBackend().put(b"old", path)
    with pytest.raises(TypeError):
        AtomicBackend().put("not bytes", path)  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_backend__full_disk_is_a_user_error_with_both_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("s4m_pipeline.models.checkpoint.write_bytes", refuse)
    with pytest.raises(UserError, match=r"iter_1\.pth.*No space left.* 3 bytes needed, [\d,]+ bytes are"):
        AtomicBackend().put(b"new", tmp_path / "iter_1.pth")
    with pytest.raises(
        UserError, match=r"w\.safetensors.*No space left.* [\d,]+ bytes needed, [\d,]+ bytes are"
    ):
        write_weights(tmp_path / "w.safetensors", model().state_dict(), ("a", "b"))


def test_load_checkpoint__code_in_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    path, trace = tmp_path / "hostile.pth", tmp_path / "trace"
    torch.save({"state_dict": {}, "meta": CreatesFile(trace)}, path)
    with pytest.raises(UserError, match=r"(?s)would run its code.*safetensors.*--trust-checkpoint"):
        load_checkpoint(path)
    assert not trace.exists()
    load_checkpoint(path, trust=True)
    assert trace.exists()


def test_load_checkpoint__getattr_is_allowed_for_history_buffers_only(tmp_path: Path) -> None:
    from mmengine.logging import HistoryBuffer

    class Reach:
        def __reduce__(self) -> Any:
            return getattr, (HistoryBuffer, "__init__")

    buffer = HistoryBuffer()
    buffer.update(3.5)
    torch.save({"message_hub": {"loss": buffer}}, tmp_path / "mmengine.pth")
    loaded = load_checkpoint(tmp_path / "mmengine.pth")["message_hub"]["loss"]
    assert loaded.current() == 3.5
    torch.save({"x": Reach()}, tmp_path / "reach.pth")
    with pytest.raises(UserError, match="would run its code"):
        load_checkpoint(tmp_path / "reach.pth")


@pytest.mark.parametrize("name", ["cut.pth", "cut.pkl", "cut.safetensors"])
def test_read_weights__truncated_file_is_a_user_error(name: str, tmp_path: Path) -> None:
    whole = tmp_path / f"whole{Path(name).suffix}"
    if whole.suffix == ".pth":
        torch.save({"state_dict": model().state_dict()}, whole)
    elif whole.suffix == ".pkl":
        whole.write_bytes(pickle.dumps({"model": {"a": np.ones(9)}}))
    else:
        write_weights(whole, model().state_dict(), ("a", "b"))
    content = whole.read_bytes()
    for kept in (0, 5, len(content) // 2, len(content) - 1):
        (tmp_path / name).write_bytes(content[:kept])
        with pytest.raises(UserError, match="damaged"):
            read_weights(tmp_path / name)
    (tmp_path / name).write_text("<html>Not found</html>")  # what some servers send in its place
    with pytest.raises(UserError, match="damaged"):
        read_weights(tmp_path / name)


def test_load_checkpoint__flipped_bit_anywhere_is_a_user_error(tmp_path: Path) -> None:
    """Of weights, too: torch stores checksums and does not compare them."""
    torch.save({"state_dict": {"a": torch.arange(9.0)}}, tmp_path / "whole.pth")
    content = (tmp_path / "whole.pth").read_bytes()
    place = content.index(torch.arange(9.0).numpy().tobytes())
    for flipped in (0, place, place + 30):  # 0: no archive any more
        (tmp_path / "flipped.pth").write_bytes(
            content[:flipped] + bytes([content[flipped] ^ 1]) + content[flipped + 1 :]
        )
        with pytest.raises(UserError, match=r"flipped\.pth is damaged"):
            load_checkpoint(tmp_path / "flipped.pth")


@pytest.mark.parametrize("classes", ["cat, dog", "5", '"cat"', "[1, 2]"])
def test_read_weights__header_whose_classes_are_no_list_of_names__is_a_user_error(
    classes: str, tmp_path: Path
) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "w.safetensors", {"classes": classes})
    with pytest.raises(UserError, match=r"w\.safetensors is damaged"):
        read_weights(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    "content", [[torch.zeros(2)], {"model": {"a": 3}}, {"state_dict": 3}, torch.zeros(2)]
)
def test_read_weights__checkpoint_of_other_things__is_a_user_error(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"w\.pth does not hold weights"):
        read_weights(tmp_path / "w.pth")


def test_read_weights__absent_file_is_a_user_error(tmp_path: Path) -> None:
    for name in ("a.pth", "a.safetensors"):
        with pytest.raises(UserError, match="No checkpoint at"):
            read_weights(tmp_path / name)


def test_write_weights__read_back_gives_tensors_and_classes(tmp_path: Path) -> None:
    source = model()
    write_weights(tmp_path / "w.safetensors", source.state_dict(), ("a", "b"), config="x")
    read = read_weights(tmp_path / "w.safetensors")
    assert read.classes == ("a", "b")
    target = model()
    load_weights(target, read)
    for name, tensor in source.state_dict().items():
        assert torch.equal(tensor, target.state_dict()[name])


def test_require_classes__other_classes_are_refused_with_both_lists() -> None:
    given = weights(("a", "b"), model())
    require_classes(given, ("a", "b"), "data")
    require_classes(weights(None, model()), ("a", "c"), "data")
    for other in (("b", "a"), ("a", "b", "c")):
        with pytest.raises(UserError, match=rf"(?s)a, b.*{', '.join(other)}.*--allow-partial"):
            require_classes(given, other, "data")


def test_load_weights__mismatch_is_refused_and_named() -> None:
    with pytest.raises(UserError) as caught:
        load_weights(model(3), weights(None, model(2)))
    assert "panoptic_head.cls_embed.weight: (3, 4) in the file, (4, 4) in the model" in str(caught.value)


def part_of(source: nn.Module, *names: str) -> Weights:
    kept = {name: value for name, value in source.state_dict().items() if name.startswith(names)}
    return Weights(WeightFile(path=Path("part")), kept, None)


def test_initialize__whole_parts_of_a_model_fit_and_leave_the_rest_as_it_was() -> None:
    target, source = model(), model()
    before = target["panoptic_head"]["query"].weight.clone()
    part = part_of(source, "backbone.")
    require_fit(target, part, ("a", "b"))
    assert initialize(target, part, ("a", "b")) == "2 of 8 tensors initialized from part"
    assert torch.equal(target["backbone"].weight, source["backbone"].weight)
    assert torch.equal(target["panoptic_head"]["query"].weight, before)
    require_fit(target, part_of(source, "backbone.", "panoptic_head.pixel_decoder."), ("a", "b"))
    require_fit(target, part_of(source, ""), ("a", "b"))


@pytest.mark.parametrize(
    ("kept", "missing"),
    [
        (("backbone.weight",), "backbone.bias"),
        (("backbone.", "panoptic_head.pixel_decoder.bias"), "panoptic_head.pixel_decoder.weight"),
        (("backbone.", "panoptic_head.query."), "panoptic_head.pixel_decoder.weight"),
    ],
    ids=["half a backbone", "half a pixel decoder", "a head without its pixel decoder"],
)
def test_require_fit__missing_tensors_are_refused_and_named(kept: tuple[str, ...], missing: str) -> None:
    with pytest.raises(UserError, match=rf"{missing}: not in the file(.|\n)*--allow-partial"):
        require_fit(model(), part_of(model(), *kept), ("a", "b"))


def test_initialize__nothing_that_fits_is_refused() -> None:
    for tensors in ({}, {"neck.weight": torch.zeros(1)}):
        with pytest.raises(UserError, match=rf"none of its {len(tensors)} tensors fits"):
            initialize(model(), Weights(WeightFile(path=Path("given")), tensors, None), ("a", "b"))


def test_initialize__weights_for_other_classes_lose_the_class_layer() -> None:
    target, source = model(3), model(2)
    given = weights(("a", "b"), source)
    with pytest.raises(UserError, match="different classes"):
        require_fit(target, given, ("c", "d", "e"))
    assert initialize(target, given, ("c", "d", "e")).startswith("6 of 8")
    same_count = model(2)
    before = same_count["panoptic_head"]["cls_embed"].weight.clone()
    initialize(same_count, given, ("x", "y"))
    assert torch.equal(same_count["panoptic_head"]["cls_embed"].weight, before)


def test_initialize__fewer_queries_than_the_file_start_from_its_first_ones() -> None:
    target, source = queries(3), queries(5)
    given = part_of(source, "backbone.", "panoptic_head.pixel_decoder.", "panoptic_head.query")
    require_fit(target, given, ("a", "b"))
    assert initialize(target, given, ("a", "b")).startswith("8 of 10")
    for name in ("query_embed", "query_feat"):
        own, first = target["panoptic_head"][name].weight, source["panoptic_head"][name].weight[:3]
        assert torch.equal(own, first)


def test_initialize__queries_that_the_file_lacks_stay_random_and_are_counted() -> None:
    target, source = queries(5), queries(3)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    given = part_of(source.half(), "backbone.", "panoptic_head.pixel_decoder.", "panoptic_head.query")
    require_fit(target, given, ("a", "b"))
    assert initialize(target, given, ("a", "b")).endswith("; 2 queries that it lacks start at random")
    for name in ("query_embed", "query_feat"):
        own, first = target["panoptic_head"][name].weight, source["panoptic_head"][name].weight
        assert own.dtype == torch.float32
        assert torch.equal(own[:3], first.float())
        assert torch.equal(own[3:], before[f"panoptic_head.{name}.weight"][3:])


def test_require_fit__queries_of_another_width_are_refused() -> None:
    other = queries(3)
    other["panoptic_head"]["query_feat"] = nn.Embedding(3, 8)
    with pytest.raises(UserError, match=r"query_feat\.weight: \(3, 8\) in the file, \(5, 4\) in the model"):
        require_fit(queries(5), part_of(other, ""), ("a", "b"))


def queries(count: int) -> nn.Module:
    network = model()
    head = network["panoptic_head"]
    head["query_embed"], head["query_feat"] = nn.Embedding(count, 4), nn.Embedding(count, 4)
    return network


def test_require_fit__unknown_tensor_is_refused_and_passed_over_by_initialize() -> None:
    tensors = {**model().state_dict(), "neck.weight": torch.zeros(1)}
    given = Weights(WeightFile(path=Path("given")), tensors, None)
    with pytest.raises(UserError, match=r"neck\.weight: not in the model(.|\n)*--allow-partial"):
        require_fit(model(), given, ("a", "b"))
    assert initialize(model(), given, ("a", "b")).startswith("8 of 8")


def test_latest_checkpoint__counts_numbers_not_letters(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path) is None
    for name in ("iter_90.pth", "iter_1000.pth", "best_AP_iter_2000.pth", ".tmp-iter_3000.pth-1"):
        (tmp_path / name).write_bytes(pickle.dumps(0))
    assert latest_checkpoint(tmp_path) == tmp_path / "iter_1000.pth"
