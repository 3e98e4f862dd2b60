"""Gradient accumulation: a batch in parts learns what several devices learn from it."""

import itertools
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from s4m_cache.generation import Generation
from s4m_cache.reader import CacheReader
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.models.registry import register_all
from s4m_pipeline.student import refresh
from s4m_pipeline.train.runner import optim_wrapper
from s4m_stages.pretrain_teacher import pretrain_teacher
from s4m_stages.train_student import train_student
from tests.test_distributed import SHORT, SignalOneRank, exit_codes, losses, start_two, train_two
from tests.test_student.conftest import prepare

register_all()

from mmdet.structures import DetDataSample  # noqa: E402
from mmengine.registry import HOOKS  # noqa: E402
from mmengine.structures import InstanceData  # noqa: E402

from s4m_pipeline.models.matching import MEAN_MATCHED  # noqa: E402
from s4m_pipeline.train.accumulate import set_mean_counts, split_batch  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
SGD = "optim_wrapper.optimizer={'type': 'SGD', 'lr': 0.02, 'weight_decay': 0.01}"
"""Adam would turn the rounding of gradients near zero into whole steps."""


def sample(branch: str, objects: int) -> DetDataSample:
    data = DetDataSample(metainfo={"branch": branch})
    data.gt_instances = InstanceData(labels=torch.zeros(objects))
    return data


def assert_close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], atol: float) -> None:
    assert one.keys() == other.keys()
    assert max(float((one[name] - other[name]).abs().max()) for name in one) < atol


def test_split_batch__each_part__has_every_nth_image_of_both_branches() -> None:
    samples = [sample("labeled", 0) for _ in range(4)] + [sample("unlabeled", 0) for _ in range(2)]
    parts = split_batch({"inputs": list(range(6)), "data_samples": samples}, 2)
    assert [part["inputs"] for part in parts] == [[0, 2, 4], [1, 3, 5]]


def test_set_mean_counts__objects__are_counted_as_the_loss_does_and_averaged_over_parts() -> None:
    """At most as many as queries, at least one for a labeled image, and for a part without pseudo-labels."""
    parts = [
        [sample("labeled", 0), sample("labeled", 9), sample("unlabeled", 0), sample("unlabeled", 0)],
        [sample("labeled", 2), sample("labeled", 1), sample("unlabeled", 0), sample("unlabeled", 4)],
    ]
    set_mean_counts(parts, num_queries=5)
    noted = [[it.metainfo[MEAN_MATCHED] for it in part] for part in parts]
    assert noted == [[(6 + 3) / 2, (6 + 3) / 2, (1 + 4) / 2, (1 + 4) / 2]] * 2


def test_teacher__one_process_with_two_parts__learns_what_two_processes_do(
    tiny_config: Path, tmp_path: Path
) -> None:
    settings = (SGD, "model.backbone.norm_eval=false", "sam.model=nano", "sd.enabled=true", "sd.points=4")
    assert train_two(tiny_config, tmp_path / "two", *settings) == [0, 0]
    pretrain_teacher(tiny_config, [*SHORT, *settings, "teacher.accumulate=2"], tmp_path / "one")
    for one, two in zip(losses(tmp_path / "one"), losses(tmp_path / "two"), strict=True):
        assert one == pytest.approx(two, rel=1e-5, abs=2e-5)  # metrics.jsonl rounds to 1e-5
    ones, twos = (load_file(tmp_path / name / "teacher/weights.safetensors") for name in ("one", "two"))
    assert_close(ones, twos, 1e-5)


def test_student__one_process_with_two_parts__learns_what_two_processes_do(
    student_experiment: Path, tmp_path: Path
) -> None:
    """Through EMA, ARP and a refresh that two ranks share and one publishes."""
    config = student_experiment / "study.py"
    settings = [SGD, "student.unlabeled_batch_size=4", "student.iterations=4", "student.log_every=1"]
    one, two = (prepare(student_experiment, tmp_path / name) for name in ("one", "two"))
    assert exit_codes(start_two(train_student, config, settings, two)) == [0, 0]
    train_student(config, [*settings, "student.accumulate=2"], one)

    weights = [load_file(work / "student/weights.safetensors") for work in (one, two)]
    assert_close(*weights, 1e-5)
    lines = [(work / "student/metrics.jsonl").read_text().splitlines() for work in (one, two)]
    for ours, theirs in zip(*(map(json.loads, of_work) for of_work in lines), strict=True):
        names = {name for name in ours if "loss" in name or name == "pseudo_instances"}
        assert {name: ours[name] for name in names} == pytest.approx(
            {name: theirs[name] for name in names}, rel=1e-4, abs=2e-5
        )
    readers = [CacheReader(Generation(work / "cache", 2)) for work in (one, two)]
    assert readers[0].generation.published() is not None
    np.testing.assert_array_equal(*(reader.instance_counts().sum() for reader in readers))
    logs = [(work / "student/generations.jsonl").read_text().splitlines() for work in (one, two)]
    decisions = [[(entry["step"], entry["decision"]) for entry in map(json.loads, log)] for log in logs]
    assert decisions[0] == decisions[1] == [(0, "taken"), (2, "taken")]


def test_teacher__resumed_on_another_number_of_devices__learns_the_same_or_is_refused(
    tiny_config: Path, tmp_path: Path
) -> None:
    """Begun by two processes and resumed by one, in two parts; in one part, the batch would be another."""
    HOOKS.register_module(module=SignalOneRank, force=True)
    short = [*SHORT, SGD]
    stop = "custom_hooks=[{'type': 'SignalOneRank', 'number': 15}]"
    assert train_two(tiny_config, tmp_path / "moved", SGD, stop) == [143, 143]
    with pytest.raises(UserError, match=r"batches are in 2 part\(s\), now there would be 1"):
        pretrain_teacher(tiny_config, [*short, stop], tmp_path / "moved")
    pretrain_teacher(tiny_config, [*short, stop, "teacher.accumulate=2"], tmp_path / "moved")
    assert train_two(tiny_config, tmp_path / "two", SGD) == [0, 0]
    moved, two = (load_file(tmp_path / name / "teacher/weights.safetensors") for name in ("moved", "two"))
    assert_close(moved, two, 1e-5)


def test_student__interrupted_in_a_refresh_and_resumed_on_other_devices__learns_the_same_or_is_refused(
    student_experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process labels half of the images; two finish the labels, and the training."""
    config = student_experiment / "study.py"
    settings = [SGD, "student.unlabeled_batch_size=4", "student.iterations=4"]
    whole, moved = (prepare(student_experiment, tmp_path / name) for name in ("whole", "moved"))
    label_shards = refresh.label_shards

    def label_some(*arguments: Any, stop: Callable[[], bool]) -> bool:
        asked = itertools.count()

        def stop_at_third() -> bool:
            if next(asked) == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return stop()

        return label_shards(*arguments, stop=stop_at_third)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(refresh, "label_shards", label_some)
        train_student(config, [*settings, "student.accumulate=2"], moved)
    refreshed = Generation(moved / "cache", 2)
    assert 0 < refreshed.stored_ids().size < refreshed.image_ids.size
    with pytest.raises(UserError, match=r"batches are in 2 part\(s\), now there would be 1"):
        train_student(config, settings, moved)
    assert exit_codes(start_two(train_student, config, settings, moved), within_s=400) == [0, 0]
    train_student(config, [*settings, "student.accumulate=2"], whole)

    assert_close(*(load_file(work / "student/weights.safetensors") for work in (whole, moved)), 1e-5)
    assert refreshed.spec.num_shards == 1 and refreshed.published() is not None
    with CacheReader(refreshed) as ours, CacheReader(Generation(whole / "cache", 2)) as theirs:
        for name in ("label", "bbox"):
            np.testing.assert_array_equal(ours.column(name), theirs.column(name))


def test_teacher__batch_that_its_parts_cannot_share__is_refused(tiny_config: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"2 images .* 1 devices in 3 parts each(.|\n)*multiple of 3"):
        pretrain_teacher(tiny_config, ["teacher.accumulate=3"], tmp_path / "run")
    with pytest.raises(UserError, match=r"Use teacher\.accumulate"):
        optim_wrapper({"optimizer": {"type": "SGD", "lr": 0.1}, "accumulative_counts": 2}, "fp32")
