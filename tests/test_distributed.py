"""Training in two processes on the CPU: the result of one, one message, and no process left behind."""

import hashlib
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from safetensors.torch import load_file

from s4m_cache.errors import CacheError
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.data.seeding import seed_all
from s4m_pipeline.models.registry import register_all
from s4m_pipeline.train.distributed import joined, on_first_rank, wait_for_all
from s4m_pipeline.train.hooks import save_now
from s4m_pipeline.train.launch import Place, find_place
from s4m_stages.pretrain_teacher import pretrain_teacher
from tests.conftest import REPOSITORY
from tests.signal_hook import living, signaled_config

pytestmark = pytest.mark.usefixtures("one_thread")
FORK = multiprocessing.get_context("fork")  # the ranks need not import everything again
SHORT = ("teacher.iterations=4", "teacher.validate_every=100", "teacher.log_every=1")


@pytest.fixture(autouse=True, scope="module")
def _registered() -> None:
    register_all()
    HOOKS.register_module(module=SignalOneRank, force=True)
    HOOKS.register_module(module=NoteStart, force=True)


class SignalOneRank(Hook):
    """Sends rank 1 a signal in the middle of step 3."""

    def __init__(self, number: int) -> None:
        self.number = number

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if runner.rank == 1 and runner.iter == 2:
            os.kill(os.getpid(), self.number)


class NoteStart(Hook):
    """Writes a hash of the weights that the first iteration has into a file of the rank."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        tensors = runner.network.state_dict().values()
        digest = hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in tensors))
        (self.folder / f"start {runner.rank}").write_text(digest.hexdigest())


TORCHRUN = {"WORLD_SIZE": "2", "RANK": "{rank}", "LOCAL_RANK": "{rank}"}
SRUN = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "{rank}", "SLURM_LOCALID": "{rank}"}


def start_two(work: Callable[..., None], *arguments: Any, launcher: dict[str, str] = TORCHRUN) -> list[Any]:
    """Run `work` in two processes, with the environment that a launcher gives to its ranks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    ranks = []
    for rank in range(2):
        environment = address | {name: value.format(rank=rank) for name, value in launcher.items()}
        ranks.append(FORK.Process(target=_as_rank, args=(environment, work, *arguments)))
        ranks[-1].start()
    return ranks


def _as_rank(environment: dict[str, str], work: Callable[..., None], *arguments: Any) -> None:
    os.environ.update(environment)
    work(*arguments)


def exit_codes(ranks: list[Any], within_s: float = 120) -> list[int | None]:
    """Exit codes of the ranks; None for one that has not ended in time, which is then killed."""
    end = time.monotonic() + within_s
    for process in ranks:
        process.join(max(0, end - time.monotonic()))
    codes = [process.exitcode for process in ranks]
    for process in ranks:
        process.kill()
        process.join()
    return codes


def train_two(config: Path, folder: Path, *overrides: str) -> list[int | None]:
    return exit_codes(start_two(pretrain_teacher, config, [*SHORT, *overrides], folder))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "teacher/weights.safetensors")


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "teacher/run.json").read_text())


def losses(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "teacher/metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if "loss" in k} for line in lines if "loss" in line]


@pytest.fixture
def points_of_each_mask_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random points that do not depend on which images and masks are processed together."""
    from s4m_pipeline.models import distilled, head

    def seeded(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            seed_all(0)
            return function(*arguments)

        return call

    of_one_mask = seeded(head.get_uncertain_point_coords_with_randomness)
    monkeypatch.setattr(
        head,
        "get_uncertain_point_coords_with_randomness",
        lambda masks, *rest: torch.cat([of_one_mask(mask[None], *rest) for mask in masks]),
    )
    of_one_image = seeded(head.random_points)
    monkeypatch.setattr(
        head,
        "random_points",
        lambda images, *rest: torch.cat([of_one_image(1, *rest) for _ in range(images)]),
    )
    monkeypatch.setattr(distilled, "sample_query_points", seeded(distilled.sample_query_points))


def test_two_ranks__with_half_the_batch_each_learn_what_one_does_with_all_of_it(
    tiny_config: Path, tmp_path: Path, points_of_each_mask_alone: None
) -> None:
    """Equal except for rounding where all that is random, or is a mean over a rank's own images, is the same:

    points sampled per mask (in a training they depend on the rank), BatchNorm not in training, images of one
    size, and as many objects in each (the class loss is a mean over each rank's own queries). None of the
    points is chosen by its uncertainty, because rounding would choose others. SGD, because Adam turns
    rounding of gradients near zero into whole steps.
    """
    settings = (
        "model.train_cfg.importance_sample_ratio=0.0",
        "optim_wrapper.optimizer={'type': 'SGD', 'lr': 0.02, 'weight_decay': 0.01}",
        "model.backbone.norm_eval=true",
        "sam.model=nano",
        "sd.enabled=true",
        "sd.points=4",
    )
    assert train_two(tiny_config, tmp_path / "two", *settings) == [0, 0]
    pretrain_teacher(tiny_config, [*SHORT, *settings], tmp_path / "one")
    for one, two in zip(losses(tmp_path / "one"), losses(tmp_path / "two"), strict=True):
        assert one == pytest.approx(two, rel=1e-5, abs=2e-5)  # metrics.jsonl rounds to 1e-5
        assert one["loss_sd"] > 0
    ones, twos = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert all(torch.allclose(ones[name], twos[name], rtol=0, atol=1e-6) for name in ones)
    start = torch.load(tmp_path / "one/teacher/iter_2.pth", weights_only=False)["state_dict"]
    moved = max(float((ones[name] - start[name]).abs().max()) for name in ones)
    assert moved > 1e-3  # a thousand times what they may differ by


def test_two_ranks__signal_to_one_saves_and_ends_both_and_the_repeated_command_resumes(
    tiny_config: Path, tmp_path: Path
) -> None:
    signal_once = f"custom_hooks=[{{'type': 'SignalOneRank', 'number': {int(signal.SIGTERM)}}}]"
    every = "teacher.checkpoint_every=100"
    assert train_two(tiny_config, tmp_path / "stopped", every, signal_once) == [143, 143]
    assert record(tmp_path / "stopped")["status"] == "interrupted"
    assert [path.name for path in (tmp_path / "stopped/teacher").glob("iter_*")] == ["iter_4.pth"]
    assert train_two(tiny_config, tmp_path / "stopped", every, signal_once) == [0, 0]
    assert record(tmp_path / "stopped")["sessions"][1]["from_step"] == 4
    assert train_two(tiny_config, tmp_path / "undisturbed", every) == [0, 0]
    stopped, undisturbed = weights(tmp_path / "stopped"), weights(tmp_path / "undisturbed")
    assert all(torch.equal(stopped[name], undisturbed[name]) for name in stopped)


@pytest.mark.parametrize("signaled", [False, True])
def test_two_ranks__leave_no_thread_that_could_abort_them_at_shutdown(
    tiny_config: Path, tmp_path: Path, signaled: bool
) -> None:
    settings = [f"custom_hooks=[{{'type': 'SignalOneRank', 'number': {int(signal.SIGTERM)}}}]"]
    ranks = start_two(_train_and_list_threads, tiny_config, settings if signaled else [], tmp_path)
    assert exit_codes(ranks) == ([143, 143] if signaled else [0, 0])
    for rank in range(2):
        before, after = (tmp_path / f"threads {rank}").read_text().split("|")
        assert "gloo" in before
        assert "gloo" not in after


def _train_and_list_threads(config: Path, settings: list[str], folder: Path) -> None:
    names = [""]
    destroy = dist.destroy_process_group

    def note_and_destroy() -> None:
        names[0] = _thread_names()
        destroy()

    dist.destroy_process_group = note_and_destroy
    file = folder / f"threads {os.environ['RANK']}"
    try:
        pretrain_teacher(config, [*SHORT, *settings], folder)
    finally:
        file.write_text(f"{names[0]}|{_thread_names()}")


def _thread_names() -> str:
    return " ".join(path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm"))


def test_two_ranks__killed_one_ends_the_other(
    tiny_config: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    kill = f"custom_hooks=[{{'type': 'SignalOneRank', 'number': {int(signal.SIGKILL)}}}]"
    assert train_two(tiny_config, tmp_path, kill, "teacher.rank_timeout_s=30") == [1, -signal.SIGKILL]
    assert "Rank 0 lost contact with another process" in capfd.readouterr().err
    assert record(tmp_path)["status"] == "failed"


def _stop_answering() -> None:
    with joined(timeout_s=2):
        if dist.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGSTOP)


def test_two_ranks__silent_one_is_given_up_after_the_timeout() -> None:
    began = time.monotonic()
    assert exit_codes(start_two(_stop_answering), within_s=15) == [1, None]
    assert time.monotonic() - began < 30


def _be_slow() -> None:
    with joined(timeout_s=2):
        if dist.get_rank() == 1:
            time.sleep(6)
        wait_for_all("slow", lambda: False)
        dist.barrier()


def test_wait_for_all__slow_rank_is_waited_for_beyond_the_timeout() -> None:
    assert exit_codes(start_two(_be_slow)) == [0, 0]


def _be_slow_on_first_rank() -> None:
    with joined(timeout_s=2):
        assert on_first_rank(lambda: time.sleep(4) or "done") == "done"


def test_on_first_rank__slow_one_is_waited_for_beyond_the_timeout() -> None:
    assert exit_codes(start_two(_be_slow_on_first_rank)) == [0, 0]


def _save_what_one_rank_sees(folder: Path) -> None:
    with joined(timeout_s=20):
        save_now(SimpleNamespace(work_dir=folder / str(dist.get_rank())), 3)


def test_save_now__checkpoint_that_the_first_rank_alone_sees__is_saved_by_none(tmp_path: Path) -> None:
    (tmp_path / "0").mkdir()
    (tmp_path / "0/iter_3.pth").touch()
    assert exit_codes(start_two(_save_what_one_rank_sees, tmp_path)) == [0, 0]


def test_two_ranks__that_initialize_differently__start_with_the_same_weights(
    tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from s4m_pipeline.models.mask2former import InstanceMask2Former

    usual = InstanceMask2Former.init_weights

    def by_rank(network: InstanceMask2Former) -> None:
        usual(network)
        for parameter in network.parameters():
            parameter.data += 0.1 * dist.get_rank()

    monkeypatch.setattr(InstanceMask2Former, "init_weights", by_rank)
    start = f"custom_hooks=[{{'type': 'NoteStart', 'folder': '{tmp_path}'}}]"
    assert train_two(tiny_config, tmp_path, start, "teacher.init_from=None", "teacher.iterations=1") == [0, 0]
    first, second = ((tmp_path / f"start {rank}").read_text() for rank in range(2))
    assert first == second


def _be_asked_to_stop() -> None:
    with joined(timeout_s=2):
        if dist.get_rank() == 0:
            wait_for_all("never", lambda: True)


def test_wait_for_all__asked_to_stop__waits_no_longer() -> None:
    assert exit_codes(start_two(_be_asked_to_stop)) == [0, 0]


def test_two_ranks__refused_run_is_refused_with_one_message(
    tiny_config: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher/run.json").write_text(json.dumps({"status": "finished", "result": {}}))
    assert train_two(tiny_config, tmp_path) == [1, 1]
    assert capfd.readouterr().err.count("already finished") == 1


def _fail_on(ranks: set[int]) -> None:
    with joined(timeout_s=20):
        if dist.get_rank() in ranks:
            raise UserError(f"fault {dist.get_rank()}")


@pytest.mark.parametrize("failing", [{0}, {1}, {0, 1}], ids=["first", "other", "both"])
def test_two_ranks__user_error_is_shown_once_and_ends_both(
    failing: set[int], capfd: pytest.CaptureFixture[str]
) -> None:
    assert exit_codes(start_two(_fail_on, failing)) == [1, 1]
    said = capfd.readouterr().err.splitlines()  # on a busy machine also torch's traces, with "default"
    assert [line.partition(" ")[0] for line in said].count("fault") == 1


def _fail_on_first_rank() -> None:
    with joined(timeout_s=20):
        on_first_rank(_refuse)


def _refuse() -> None:
    raise CacheError("no pseudo-labels")


def test_on_first_rank__fault_of_the_cache_is_shown_once_and_ends_both(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert exit_codes(start_two(_fail_on_first_rank)) == [1, 1]
    assert capfd.readouterr().err.strip() == "no pseudo-labels"


def _ask_first_rank(folder: Path) -> None:
    with joined(timeout_s=20):
        own = dist.get_rank()
        (folder / f"{own}").write_text(str(on_first_rank(lambda: own + 7)))


@pytest.mark.parametrize("launcher", [TORCHRUN, SRUN], ids=["torchrun", "srun"])
def test_on_first_rank__gives_its_result_to_all(launcher: dict[str, str], tmp_path: Path) -> None:
    assert exit_codes(start_two(_ask_first_rank, tmp_path, launcher=launcher)) == [0, 0]
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["7", "7"]


def test_devices__sigterm_to_the_command_saves_and_ends_with_143(tiny_config: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "s4m_stages", "pretrain-teacher", str(tiny_config)]
    options = ["--work-dir", str(tmp_path), "--devices", "2", "--set", "teacher.iterations=500"]
    process = subprocess.Popen(
        [*command, *options, "--set", "teacher.log_every=1"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics = tmp_path / "teacher/metrics.jsonl"
    while not metrics.exists() or metrics.stat().st_size == 0:
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()
    _, messages = process.communicate(timeout=120)
    assert process.returncode == 143
    assert messages.count("SIGTERM: saved in") == 1
    assert "Traceback" not in messages
    assert record(tmp_path)["status"] == "interrupted"
    assert list((tmp_path / "teacher").glob("iter_*.pth"))


def test_devices__sigint_to_all_of_its_processes__saves_and_the_repeated_command_resumes(
    tiny_config: Path, tmp_path: Path
) -> None:
    """Each rank receives it twice: torchrun passes it on."""
    config = signaled_config(tiny_config, tmp_path, signal.SIGINT, launcher=True)
    settings = ("teacher.iterations=6", "teacher.validate_every=100", "teacher.checkpoint_every=100")
    arguments = [str(config), "--devices", "2", "--work-dir", str(tmp_path / "stopped")]
    words = [f"--set={setting}" for setting in settings]
    path = os.pathsep.join([str(REPOSITORY), *sys.path])
    done = subprocess.run(
        [sys.executable, "-m", "s4m_stages", "pretrain-teacher", *arguments, *words],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        stderr=subprocess.PIPE,
        text=True,
        timeout=500,
    )
    assert done.returncode == 130, done.stderr
    assert living(tmp_path / "stopped/teacher") == []
    assert [path.name for path in (tmp_path / "stopped/teacher").glob("iter_*")] == ["iter_4.pth"]
    repeated = start_two(pretrain_teacher, config, settings, tmp_path / "stopped")
    assert exit_codes(repeated, within_s=500) == [0, 0]
    assert record(tmp_path / "stopped")["sessions"][1]["from_step"] == 4
    quiet = start_two(pretrain_teacher, tiny_config, settings, tmp_path / "undisturbed")
    assert exit_codes(quiet, within_s=500) == [0, 0]
    stopped, undisturbed = weights(tmp_path / "stopped"), weights(tmp_path / "undisturbed")
    assert all(torch.equal(stopped[name], undisturbed[name]) for name in undisturbed)


def test_devices__batch_that_they_cannot_share_is_refused(tiny_config: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"teacher.batch_size: 2 images .* 3 devices(.|\n)*multiple of 3"):
        pretrain_teacher(tiny_config, [], tmp_path / "run", devices=3)
    assert not (tmp_path / "run").exists()


TASK_5 = {
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_JOB_ID": "123456",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
}


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, None),
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_JOB_ID": "1"}, None),
        (
            {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "9"},
            Place(3, 1, 4, "a", 9),
        ),
        (TASK_5, Place(5, 1, 8, "gpu07", 23456)),
        ({**TASK_5, "MASTER_ADDR": "b", "MASTER_PORT": "9"}, Place(5, 1, 8, "b", 9)),
    ],
    ids=["alone", "batch script", "torchrun", "srun", "srun, address given"],
)
def test_find_place__reads_what_the_launcher_set(
    environment: dict[str, str], place: Place | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(
        '#!/bin/sh\n[ "$1 $2 $3" = "show hostnames gpu[07-08]" ] && printf "gpu07\\ngpu08\\n"\n'
    )
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert find_place(environment) == place
