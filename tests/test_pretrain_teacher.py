"""The teacher's training: real runs on a tiny data set, killed, resumed, refused and recovered."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.hooks import Hook
from safetensors.torch import load_file

from s4m_cache.errors import CacheError
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.models.checkpoint import write_weights
from s4m_pipeline.models.unpickling import load_checkpoint
from s4m_stages.pretrain_teacher import pretrain_teacher
from s4m_stages.run import run
from tests.conftest import CreatesFile

pytestmark = pytest.mark.usefixtures("one_thread")
Train = Callable[..., Path]


@pytest.fixture
def train(tiny_config: Path, tmp_path: Path) -> Train:
    """Train in this process; returns the stage's folder."""

    def run(name: str, *overrides: str, **switches: Any) -> Path:
        pretrain_teacher(tiny_config, list(overrides), tmp_path / name, **switches)
        return tmp_path / name / "teacher"

    return run


@pytest.fixture(scope="module")
def uninterrupted(
    tiny_config: Path, tmp_path_factory: pytest.TempPathFactory, _registered_hooks: None, one_thread: None
) -> Path:
    """The stage's folder of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    pretrain_teacher(tiny_config, [], folder)
    return folder / "teacher"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "weights.safetensors")


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text())


def logged_steps(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_same_weights(first: Path, second: Path) -> None:
    one, other = weights(first), weights(second)
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def start(config: Path, work_dir: Path, *overrides: str, **options: Any) -> subprocess.Popen:
    code = (
        "import sys; from pathlib import Path; from s4m_stages.pretrain_teacher import pretrain_teacher;"
        "pretrain_teacher(Path(sys.argv[1]), sys.argv[3:], Path(sys.argv[2]))"
    )
    arguments = [sys.executable, "-c", code, str(config), str(work_dir), *overrides]
    return subprocess.Popen(arguments, env={**os.environ, "OMP_NUM_THREADS": "1"}, **options)


def wait_for(path: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, f"ended with {process.returncode} before {path} appeared"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_pretrain_teacher__finished_run_leaves_weights_metrics_and_record(uninterrupted: Path) -> None:
    folder = uninterrupted
    assert logged_steps(folder) == [2, 3, 4, 6, 6]
    assert {path.name for path in folder.glob("iter_*.pth")} == {"iter_4.pth", "iter_6.pth"}
    content = record(folder)
    assert content["status"] == "finished"
    assert content["result"].keys() >= {"step", "AP", "AP50", "AP75", "seconds"}
    assert content["config"]["teacher"]["iterations"] == 6
    assert content["data"].keys() == {"data.labeled", "data.val"}
    assert content["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert content["sessions"][0].keys() >= {"started", "ended", "host", "device", "from_step"}


def test_pretrain_teacher__killed_and_repeated_gives_the_weights_of_an_uninterrupted_run(
    uninterrupted: Path, train: Train, tiny_config: Path, tmp_path: Path
) -> None:
    process = start(tiny_config, tmp_path / "killed")
    wait_for(tmp_path / "killed/teacher/iter_2.pth", process)
    process.kill()
    process.wait()
    assert record(tmp_path / "killed/teacher")["status"] == "running"
    resumed = train("killed")
    assert record(resumed)["sessions"][1]["from_step"] in (2, 4, 6)
    assert_same_weights(uninterrupted, resumed)
    assert logged_steps(resumed) == logged_steps(uninterrupted)


@pytest.mark.parametrize(
    ("number", "code", "moment"),
    [
        (signal.SIGTERM, 143, "training"),
        (signal.SIGINT, 130, "training"),
        (signal.SIGTERM, 143, "validation"),
    ],
    ids=["term", "int", "term_in_validation"],
)
def test_pretrain_teacher__signal_saves_and_the_repeated_command_resumes(
    number: signal.Signals, code: int, moment: str, uninterrupted: Path, train: Train, tmp_path: Path
) -> None:
    folder = tmp_path / "stopped/teacher"
    settings = ("teacher.checkpoint_every=100", "teacher.validate_every=3")
    hook = f"custom_hooks=[{{'type': 'SendSignal', 'number': {int(number)}, 'moment': '{moment}'}}]"
    usual = signal.getsignal(number)
    with pytest.raises(SystemExit) as caught:
        train("stopped", *settings, hook)
    assert caught.value.code == code
    assert record(folder)["status"] == "interrupted"
    assert [path.name for path in folder.glob("iter_*.pth")] == ["iter_3.pth"]
    assert signal.getsignal(number) is usual
    assert_same_weights(uninterrupted, train("stopped", *settings, hook))


def test_pretrain_teacher__signal_to_all_its_processes__saves_and_the_repeated_command_resumes(
    uninterrupted: Path, train: Train, tiny_config: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "stopped/teacher"
    process = start(
        tiny_config,
        tmp_path / "stopped",
        "teacher.workers=2",
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(folder / "iter_2.pth", process)
    os.killpg(process.pid, signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 143, said
    assert "DataLoader worker" not in said  # whose end does not always reach the main process as an error
    assert record(folder)["status"] == "interrupted"
    assert_same_weights(uninterrupted, train("stopped", "teacher.workers=2"))


def test_pretrain_teacher__unreadable_validation_image__is_named(
    train: Train, tiny_coco: Any, tmp_path: Path
) -> None:
    images = tmp_path / "val"
    shutil.copytree(tiny_coco.images("val"), images)
    (images / "2.png").write_bytes((images / "2.png").read_bytes()[:100])
    with pytest.raises(UserError, match=rf"^{images}/2\.png: .*data check"):
        train("run", f"data.val_images={images}", "teacher.workers=1", "teacher.validate_every=1")


def test_pretrain_teacher__number_of_workers_does_not_change_the_weights(
    uninterrupted: Path, train: Train
) -> None:
    assert_same_weights(uninterrupted, train("run", "teacher.workers=2"))


def test_pretrain_teacher__finished_run_is_refused_and_redone_with_overwrite(train: Train) -> None:
    folder = train("run", "teacher.iterations=1")
    before = (folder / "weights.safetensors").stat().st_mtime_ns
    with pytest.raises(UserError, match=r"already finished.*\n.*--overwrite"):
        train("run", "teacher.iterations=1")
    assert (folder / "weights.safetensors").stat().st_mtime_ns == before
    train("run", "teacher.iterations=2", overwrite=True)
    assert record(folder)["config"]["teacher"]["iterations"] == 2
    assert {path.name for path in folder.glob("iter_*.pth")} == {"iter_2.pth"}


def test_pretrain_teacher__interrupted_run_of_other_settings_is_refused_with_both_values(
    train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(RuntimeError), monkeypatch.context() as patched:
        patched.setattr("s4m_pipeline.train.runner.QuietRunner.train", _fail)
        train("run")
    (tmp_path / "run/teacher/iter_2.pth").touch()
    with pytest.raises(UserError, match=r"teacher\.seed changed: 0 -> 5") as caught:
        train("run", "teacher.seed=5", "teacher.workers=1")
    assert "teacher.workers" not in str(caught.value)


def test_pretrain_teacher__validation_of_other_classes_is_refused_with_both_lists(
    train: Train, tiny_coco: Any, tmp_path: Path
) -> None:
    document = json.loads(tiny_coco.annotations("val").read_text())
    document["categories"][1]["name"] = "black"
    other = tmp_path / "other.json"
    other.write_text(json.dumps(document))
    with pytest.raises(UserError, match=r"(?s)bright, dark.*bright, black"):
        train("run", f"data.val={other}")
    assert not (tmp_path / "run").exists()


def test_pretrain_teacher__images_shared_with_validation_are_refused(train: Train) -> None:
    with pytest.raises(UserError, match="also in the validation set"):
        train("run", "data.val=train.json", "data.val_images=train")


def test_pretrain_teacher__images_without_objects_are_trained_on(
    train: Train, tiny_coco: Any, tmp_path: Path
) -> None:
    document = json.loads(tiny_coco.annotations("train").read_text())
    document["annotations"] = [entry for entry in document["annotations"] if entry["image_id"] == 1]
    sparse = tmp_path / "sparse.json"
    sparse.write_text(json.dumps(document))
    folder = train("run", f"data.labeled={sparse}", "teacher.iterations=3")
    assert "skipped" not in (folder / "log/train.log").read_text()


def test_pretrain_teacher__nan_in_a_batch_skips_that_step(train: Train) -> None:
    spoil = "custom_hooks=[{'type': 'SpoilBatch', 'step': 3}]"
    folder = train("run", "teacher.checkpoint_every=100", "model.backbone.norm_eval=true", spoil)
    assert all(tensor.isfinite().all() for tensor in weights(folder).values() if tensor.is_floating_point())
    assert "iteration 4 skipped" in (folder / "log/train.log").read_text()


@pytest.mark.parametrize("spoiler", ["SpoilWeights", "SpoilBatch"])
def test_pretrain_teacher__nan_weights_or_statistics_are_replaced_by_the_last_checkpoint(
    spoiler: str, train: Train
) -> None:
    folder = train("run", f"custom_hooks=[{{'type': '{spoiler}', 'step': 3}}]")
    assert all(tensor.isfinite().all() for tensor in weights(folder).values() if tensor.is_floating_point())
    assert "restored the weights of" in (folder / "log/train.log").read_text()


@pytest.mark.parametrize("step", [4, 3, 6], ids=["checkpoint due", "validation due", "last step"])
def test_pretrain_teacher__update_that_leaves_nan__is_neither_saved_nor_validated(
    step: int, train: Train
) -> None:
    folder = train("run", f"custom_hooks=[{{'type': 'SpoilUpdate', 'step': {step}}}]")
    log = (folder / "log/train.log").read_text()
    assert "skipped" not in log
    assert log.count("restored the weights of") == 1
    for name in ("iter_4.pth", "iter_6.pth"):
        saved = load_checkpoint(folder / name)["state_dict"]
        assert all(tensor.isfinite().all() for tensor in saved.values()), name
    assert all(tensor.isfinite().all() for tensor in weights(folder).values())


def test_pretrain_teacher__signal_after_an_update_that_leaves_nan__saves_finite_weights(
    train: Train, tmp_path: Path
) -> None:
    spoil = "{'type': 'SpoilUpdate', 'step': 3}"
    stop = f"{{'type': 'SendSignal', 'number': {int(signal.SIGTERM)}, 'moment': 'training'}}"
    with pytest.raises(SystemExit):
        train("run", f"custom_hooks=[{spoil}, {stop}]")
    saved = load_checkpoint(tmp_path / "run/teacher/iter_3.pth")["state_dict"]
    assert all(tensor.isfinite().all() for tensor in saved.values())


def test_pretrain_teacher__lasting_nan_stops_and_names_the_images(train: Train, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not finite(.|\n)*Image ids of the last batch: \[\d, \d\]"):
        train("run", "custom_hooks=[{'type': 'SpoilWeights', 'step': 0}]")
    assert record(tmp_path / "run/teacher")["status"] == "failed"


def test_pretrain_teacher__nan_after_every_return__stops_at_the_third(train: Train, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"at iteration 6; .* did not help \(attempt 3\)(.|\n)*Image ids"):
        train("run", "custom_hooks=[{'type': 'SpoilWeights', 'step': 2, 'lasting': True}]")
    assert (tmp_path / "run/teacher/log/train.log").read_text().count("restored the weights of") == 2
    saved = torch.load(tmp_path / "run/teacher/iter_4.pth", weights_only=False)["state_dict"]
    assert all(tensor.isfinite().all() for tensor in saved.values() if tensor.is_floating_point())


def free_bytes(monkeypatch: pytest.MonkeyPatch, ask: Callable[[], float]) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=int(ask())))


def test_pretrain_teacher__too_small_a_disk__is_refused_before_the_first_iteration(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free_bytes(monkeypatch, lambda: 1000)
    with pytest.raises(
        CacheError, match=r"checkpoints of this training needs about [\d,]{9,} bytes, but 1,000"
    ):
        train("run")
    assert not list((tmp_path / "run/teacher").glob("iter_*.pth"))
    assert logged_steps(tmp_path / "run/teacher") == []


def test_pretrain_teacher__disk_that_fills__stops_after_a_checkpoint_and_the_repeated_command_resumes(
    uninterrupted: Path, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run/teacher"
    free_bytes(monkeypatch, lambda: 1000 if (folder / "iter_2.pth").exists() else 1e12)
    with pytest.raises(CacheError, match=r"iter_2\.pth: the next checkpoint needs .* but 1,000 bytes"):
        train("run")
    assert [path.name for path in folder.glob("*.pth")] == ["iter_2.pth"]
    assert logged_steps(folder) == [2]
    with pytest.raises(CacheError, match="saving the checkpoints of this training needs"):
        train("run")
    free_bytes(monkeypatch, lambda: 1e12)
    assert_same_weights(uninterrupted, train("run"))


def test_pretrain_teacher__stopped_early_before_the_first_checkpoint__is_finished_there(train: Train) -> None:
    early = (
        '[{"type": "EarlyStoppingHook", "monitor": "AP", "rule": "greater", "patience": 0, "min_delta": 200}]'
    )
    folder = train("early", f"custom_hooks={early}", "teacher.checkpoint_every=6", "teacher.validate_every=1")
    (checkpoint,) = folder.glob("iter_*.pth")
    assert int(checkpoint.stem[5:]) < 6
    assert record(folder)["result"]["step"] == int(checkpoint.stem[5:])
    assert weights(folder)


def test_pretrain_teacher__starts_from_given_weights(uninterrupted: Path, train: Train) -> None:
    settings = ("teacher.iterations=1", "optim_wrapper.optimizer.lr=0.0", "model.backbone.norm_eval=True")
    started = train("run", *settings, f"teacher.init_from={uninterrupted / 'weights.safetensors'}")
    assert_same_weights(uninterrupted, started)


def test_pretrain_teacher__initial_weights_that_do_not_fit_are_refused_before_anything_is_written(
    train: Train, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    layer = "panoptic_head.cls_embed.weight"
    whole = load_file(tiny_checkpoint)
    rest = {name: tensor for name, tensor in whole.items() if name != layer}
    write_weights(tmp_path / "other.safetensors", {}, ("bright", "black"))
    write_weights(tmp_path / "shape.safetensors", {**whole, layer: torch.zeros(4, 64)}, ("bright", "dark"))
    write_weights(tmp_path / "part.safetensors", rest, ("bright", "dark"))
    torch.save({**whole, layer: torch.zeros(4, 64)}, tmp_path / "nameless.pth")
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "strange.pth")
    for name, message in (
        ("other.safetensors", r"(?s)bright, black.*bright, dark.*--allow-partial"),
        (
            "shape.safetensors",
            rf"{layer}: \(4, 64\) in the file, \(3, \d+\) in the model\nPass --allow-partial",
        ),
        ("nameless.pth", rf"{layer}: \(4, 64\) in the file"),
        ("part.safetensors", rf"{layer}: not in the file\nPass --allow-partial"),
        ("strange.pth", r"fc\.weight: not in the model"),
        ("absent.pth", r"No checkpoint at .*absent\.pth"),
    ):
        with pytest.raises(UserError, match=message):
            train("run", f"teacher.init_from={tmp_path / name}")
    with pytest.raises(UserError, match="none of its 1 tensors fits"):
        train("run", f"teacher.init_from={tmp_path / 'strange.pth'}", allow_partial=True)
    assert not (tmp_path / "run").exists()


def test_pretrain_teacher__initial_weights_are_compared_by_what_the_file_holds(
    train: Train, tiny_config: Path, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Of a finished training: its file is moved, replaced, put back, and deleted."""
    file, moved = tmp_path / "start.safetensors", tmp_path / "moved.safetensors"
    shutil.copy(tiny_checkpoint, file)
    settings = ["teacher.iterations=1", f"teacher.init_from={file}"]
    trained = train("run", *settings) / "weights.safetensors"

    def foretold(*overrides: str) -> str:
        capsys.readouterr()
        run(
            tiny_config, "teacher", "teacher", True, [*settings, *overrides], tmp_path / "run", overwrite=True
        )
        return capsys.readouterr().out

    shutil.copy(file, moved)
    assert "teacher: finished (" in foretold(f"teacher.init_from={moved}")
    shutil.copy(trained, file)
    assert "teacher: re-run, because content of initial weights changed: sha256:" in foretold()
    shutil.copy(moved, file)
    assert "teacher: finished (" in foretold()
    file.unlink()
    assert "teacher: finished (" in foretold()
    for other in ("none", "torchvision://resnet50", str(tmp_path / "absent.pth")):
        said = foretold(f"teacher.init_from={other}")
        assert f"teacher: re-run, because teacher.init_from changed: {file} -> " in said


def test_pretrain_teacher__interrupted_run_whose_initial_weights_were_replaced__is_refused(
    train: Train, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "start.safetensors"
    shutil.copy(tiny_checkpoint, file)
    with pytest.raises(RuntimeError), monkeypatch.context() as patched:
        patched.setattr("s4m_pipeline.train.runner.QuietRunner.train", _fail)
        train("run", f"teacher.init_from={file}")
    (tmp_path / "run/teacher/iter_2.pth").touch()
    write_weights(file, {name: 2 * tensor for name, tensor in load_file(file).items()}, ("bright", "dark"))
    with pytest.raises(UserError, match=r"content of initial weights changed: sha256:.* -> sha256:.*"):
        train("run", f"teacher.init_from={file}")


def test_pretrain_teacher__allow_partial__starts_from_what_fits(
    uninterrupted: Path, train: Train, tmp_path: Path
) -> None:
    layer = "panoptic_head.cls_embed.weight"
    given = {**weights(uninterrupted), layer: torch.zeros(9, 9)}
    write_weights(tmp_path / "given.safetensors", given, ("bright", "dark"))
    settings = ("teacher.iterations=1", "optim_wrapper.optimizer.lr=0.0", "model.backbone.norm_eval=True")
    started = weights(
        train("run", *settings, f"teacher.init_from={tmp_path / 'given.safetensors'}", allow_partial=True)
    )
    assert started.keys() == given.keys()
    assert {name for name in given if not torch.equal(started[name], given[name])} == {layer}


def test_pretrain_teacher__code_in_weights_that_the_model_names__is_refused_and_not_run(
    tiny_config: Path, tmp_path: Path
) -> None:
    hostile, trace = tmp_path / "hostile.pth", tmp_path / "trace"
    torch.save({"state_dict": {"conv1.weight": CreatesFile(trace)}}, hostile)
    config = tmp_path / "hostile.py"
    initial = f"dict(type='Pretrained', checkpoint={str(hostile)!r})"
    config.write_text(f"_base_ = [{str(tiny_config)!r}]\nmodel = dict(backbone=dict(init_cfg={initial}))\n")
    with pytest.raises(UserError, match=r"hostile\.pth.* would run its code(.|\n)*--trust-checkpoint"):
        pretrain_teacher(config, ["teacher.iterations=1"], tmp_path / "run")
    assert not trace.exists()
    assert record(tmp_path / "run/teacher")["status"] == "failed"


def test_pretrain_teacher__initial_weights_with_a_backbone__leave_out_the_one_that_the_model_names(
    tiny_config: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    config = tmp_path / "named.py"
    initial = "dict(type='Pretrained', checkpoint='absent.pth')"
    config.write_text(f"_base_ = [{str(tiny_config)!r}]\nmodel = dict(backbone=dict(init_cfg={initial}))\n")
    settings = ["teacher.iterations=1", "teacher.validate_every=1", f"teacher.init_from={tiny_checkpoint}"]
    pretrain_teacher(config, settings, tmp_path / "run")
    assert record(tmp_path / "run/teacher")["status"] == "finished"


@pytest.mark.parametrize("name", ["{hub}/checkpoints/cut.pth", "https://example.org/weights/cut.pth"])
def test_pretrain_teacher__damaged_weights_that_the_model_names__are_refused(
    name: str, tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a download that was broken off leaves them."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cut = tmp_path / "hub/checkpoints/cut.pth"
    cut.parent.mkdir(parents=True)
    torch.save({"state_dict": {"conv1.weight": torch.zeros(9, 9)}}, cut)
    cut.write_bytes(cut.read_bytes()[:-200])
    config = tmp_path / "cut.py"
    initial = f"dict(type='Pretrained', checkpoint={name.format(hub=tmp_path / 'hub')!r})"
    config.write_text(f"_base_ = [{str(tiny_config)!r}]\nmodel = dict(backbone=dict(init_cfg={initial}))\n")
    with pytest.raises(UserError, match=r"hub/checkpoints/cut\.pth is damaged(.|\n)*copy it again"):
        pretrain_teacher(config, ["teacher.iterations=1"], tmp_path / "run")


def _fail(runner: Any) -> None:
    raise RuntimeError("as if the machine had stopped")


class SendSignal(Hook):
    """Sends this process a signal in the middle of step 3 or of its validation."""

    def __init__(self, number: int, moment: str) -> None:
        self.number = number
        self.moment = moment

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if self.moment == "training" and runner.iter == 2:
            os.kill(os.getpid(), self.number)

    def before_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if self.moment == "validation" and runner.iter == 3:
            os.kill(os.getpid(), self.number)


class SpoilBatch(Hook):
    def __init__(self, step: int) -> None:
        self.step = step

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if runner.iter == self.step:
            data_batch["inputs"] = [image.float() * float("nan") for image in data_batch["inputs"]]


class SpoilWeights(SpoilBatch):
    def __init__(self, step: int, lasting: bool = False) -> None:
        super().__init__(step)
        self.lasting = lasting

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if runner.iter == self.step or (self.lasting and runner.iter > self.step):
            for parameter in runner.model.parameters():
                parameter.data.fill_(float("nan"))


class SpoilUpdate(Hook):
    """As if finite gradients had led to weights that are not."""

    priority = "VERY_HIGH"

    def __init__(self, step: int) -> None:
        self.step = step

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        if runner.iter + 1 == self.step:
            for parameter in runner.model.parameters():
                parameter.data.fill_(float("nan"))


@pytest.fixture(autouse=True, scope="module")
def _registered_hooks() -> None:
    from mmengine.registry import HOOKS

    for hook in (SendSignal, SpoilBatch, SpoilUpdate, SpoilWeights):
        HOOKS.register_module(module=hook, force=True)
