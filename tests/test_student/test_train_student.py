"""The student's training: real runs on a few scenes, killed inside and outside a refresh, and refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from safetensors.torch import load_file

from s4m_cache.errors import CacheError
from s4m_cache.generation import Generation
from s4m_cache.generations import current_number
from s4m_cache.importing import import_coco
from s4m_cache.verify import repair
from s4m_pipeline.config.experiment import load_experiment
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.data.labeled import load_labeled
from s4m_pipeline.refine.gate import Outcome
from s4m_pipeline.student import refresh
from s4m_pipeline.student.build import student_dataloader
from s4m_pipeline.student.labels import TrueLabels, labels_of_source
from s4m_pipeline.student.two_branches import TwoBranchDataset
from tests.test_refine.conftest import labels_of, write_untrained_teacher
from tests.test_student.conftest import TrainStudent, prepare

pytestmark = pytest.mark.usefixtures("one_thread")
WITHOUT_REFRESH = ("student.refresh_every=None", "student.burn_in=0")


@pytest.fixture(scope="module")
def uninterrupted(
    student_experiment: Path, tmp_path_factory: pytest.TempPathFactory, one_thread: None
) -> Path:
    """The work folder of a run that nothing disturbed."""
    from s4m_stages.train_student import train_student

    work = prepare(student_experiment, tmp_path_factory.mktemp("uninterrupted") / "work")
    train_student(student_experiment / "study.py", [], work)
    return work


def log(work: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (work / "student/generations.jsonl").read_text().splitlines()]


def taken(work: Path) -> list[tuple[int, int, str]]:
    return [(entry["step"], entry["generation"], entry["decision"]) for entry in log(work)]


def assert_same_end(first: Path, second: Path) -> None:
    """Same weights, same history of labels, same last labels."""
    one, other = (load_file(work / "student/weights.safetensors") for work in (first, second))
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name
    assert taken(first) == taken(second)
    newest = current_number(first / "cache")
    assert newest == current_number(second / "cache")
    before, after = labels_of(first / "cache", newest), labels_of(second / "cache", newest)
    for image_id, columns in before.items():
        for name, values in columns.items():
            np.testing.assert_array_equal(values, after[image_id][name])


def start(experiment: Path, work: Path) -> subprocess.Popen:
    code = (
        "import sys; from pathlib import Path; from s4m_stages.train_student import train_student;"
        "train_student(Path(sys.argv[1]), [], Path(sys.argv[2]))"
    )
    arguments = [sys.executable, "-c", code, str(experiment / "study.py"), str(work)]
    return subprocess.Popen(arguments, env={**os.environ, "OMP_NUM_THREADS": "1"})


def start_and_kill(experiment: Path, work: Path, moment: str) -> None:
    """As soon as a file of that name is there."""
    process = start(experiment, work)
    deadline = time.monotonic() + 500
    while not any(work.glob(moment)):
        assert process.poll() is None, f"ended with {process.returncode}"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert not (work / "student/weights.safetensors").exists()


def test_train_student__finished_run_has_refreshed_its_labels_twice(uninterrupted: Path) -> None:
    assert taken(uninterrupted) == [(0, 1, "taken"), (2, 2, "taken"), (4, 3, "taken")]
    assert current_number(uninterrupted / "cache") == 3
    assert {path.name for path in (uninterrupted / "cache").glob("gen-*")} == {"gen-0002", "gen-0003"}
    assert all("held_out" in entry["quality"] for entry in log(uninterrupted))
    record = json.loads((uninterrupted / "student/run.json").read_text())
    assert record["status"] == "finished"
    assert record["result"].keys() >= {"step", "AP", "AP50", "seconds"}
    assert record["data"]["labels: prompt"] == "points"


@pytest.mark.parametrize(
    "moment",
    ["cache/gen-0002/parts/part*", "student/iter_3.pth", "student/iter_6.pth"],
    ids=["refresh", "step", "last validation"],
)
def test_train_student__killed_and_repeated_ends_in_the_same_place(
    moment: str,
    uninterrupted: Path,
    train_student: TrainStudent,
    student_experiment: Path,
    tmp_path: Path,
) -> None:
    work = prepare(student_experiment, tmp_path / "killed")
    start_and_kill(student_experiment, work, moment)
    train_student("killed")
    assert_same_end(uninterrupted, work)


def test_train_student__terminated_in_a_refresh_saves_and_resumes_it(
    uninterrupted: Path, train_student: TrainStudent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = refresh.label_shards

    def label_and_signal(*arguments: Any, **options: Any) -> bool:
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments, **options)

    with monkeypatch.context() as patched, pytest.raises(SystemExit) as caught:
        patched.setattr(refresh, "label_shards", label_and_signal)
        train_student("stopped")
    assert caught.value.code == 143
    assert taken(tmp_path / "stopped") == [(0, 1, "taken")]
    assert_same_end(uninterrupted, train_student("stopped"))


def refine_otherwise(experiment: Path, work: Path, shard: str | None) -> None:
    """`s4m refine --generation 2`, with a setting of its own."""
    from s4m_stages.refine import refine

    settings = ["refine.min_score=0.3"]
    refine(experiment / "study.py", shard=shard, generation=2, overrides=settings, work_dir=work)


def test_train_student__next_generation_begun_by_somebody_else__makes_the_one_after_it(
    train_student: TrainStudent, student_experiment: Path, tmp_path: Path
) -> None:
    work = prepare(student_experiment, tmp_path / "run")
    refine_otherwise(student_experiment, work, shard="1/2")
    start_and_kill(student_experiment, work, "cache/gen-0003/parts/part*")
    train_student("run")
    assert taken(work) == [(0, 1, "taken"), (2, 3, "taken"), (4, 4, "taken")]


def test_train_student__number_of_workers_does_not_change_the_end(
    uninterrupted: Path, train_student: TrainStudent
) -> None:
    assert_same_end(uninterrupted, train_student("run", "student.workers=2"))


def test_train_student__rejected_labels_are_not_taken(
    train_student: TrainStudent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        refresh.RefineLabels, "__call__", lambda *arguments: (2, Outcome("rejected", {"quality": {}}))
    )
    work = train_student("run", "student.iterations=3")
    assert taken(work) == [(0, 1, "taken"), (2, 1, "rejected")]
    assert log(work)[1]["made"] == 2


def test_train_student__labels_rejected_again_and_again_leave_the_last_ones_only(
    train_student: TrainStudent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s4m_pipeline.refine.gate.decide", lambda *_: "rejected")
    work = train_student("run", "student.iterations=5", "student.refresh_every=1")
    assert taken(work) == [(0, 1, "taken"), *((step, 1, "rejected") for step in (2, 3, 4))]
    assert [entry["made"] for entry in log(work)] == [1, 2, 3, 4]
    assert all("held_out" in entry["quality"] for entry in log(work))
    assert {path.name for path in (work / "cache").glob("gen-*")} == {"gen-0001", "gen-0004"}


def test_train_student__labels_published_by_another_process_are_taken_after_an_epoch(
    train_student: TrainStudent, student_experiment: Path
) -> None:
    hook = f"custom_hooks=[{{'type': 'RefineAtStep2', 'config': '{student_experiment / 'study.py'}'}}]"
    work = train_student("run", *WITHOUT_REFRESH, "student.iterations=5", hook)
    assert taken(work) == [(0, 1, "taken"), (3, 2, "taken")]  # six images, two a step


def test_train_student__control_experiment_needs_no_cache(
    train_student: TrainStudent, student_experiment: Path, tmp_path: Path
) -> None:
    shutil.rmtree(prepare(student_experiment, tmp_path / "control") / "cache")
    work = train_student("control", *WITHOUT_REFRESH, "student.source=labeled", "student.iterations=2")
    assert not (work / "student/generations.jsonl").exists()
    lines = (work / "student/metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["pseudo_instances"] > 0


def test_train_student__with_true_labels_needs_no_cache_and_reads_unlabeled_images_only(
    train_student: TrainStudent, student_experiment: Path, tmp_path: Path
) -> None:
    shutil.rmtree(prepare(student_experiment, tmp_path / "truth") / "cache")
    data = student_experiment / "data"
    true = ["student.source=truth", *WITHOUT_REFRESH]
    with pytest.raises(
        UserError, match=r"(?s)not the ground truth of the unlabeled images.*refine.ground_truth"
    ):
        train_student("truth", *true, "refine.ground_truth=labeled.json")
    work = train_student("truth", *true, "student.iterations=2", "refine.ground_truth=train.json")
    assert not (work / "student/generations.jsonl").exists()
    lines = (work / "student/metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["pseudo_instances"] > 0

    options, config = load_experiment(
        student_experiment / "study.py", [*true, "refine.ground_truth=train.json"]
    )
    few = json.loads((data / "train.json").read_text())
    few = {"images": few["images"][:2], "annotations": [], "categories": few["categories"]}
    (tmp_path / "few.json").write_text(json.dumps(few))
    options = options.model_copy(
        update={"data": options.data.model_copy(update={"unlabeled": str(tmp_path / "few.json")})}
    )
    train, _ = load_labeled(options.data)
    labels = labels_of_source(options, work / "cache", None, train)
    assert isinstance(labels, TrueLabels)
    loader = student_dataloader(options.require_student(), config, train, labels, (1, 1))
    both = TwoBranchDataset(loader["dataset"]["labeled"], loader["dataset"]["unlabeled"])
    assert {branch: len(images) for branch, images in both.branches.items()} == {"labeled": 3, "unlabeled": 2}


def test_train_student__without_pseudo_labels_learns_from_the_labeled_branch_only(
    train_student: TrainStudent,
    student_experiment: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A generation with labels in one of six images: most steps see none."""
    work = prepare(student_experiment, tmp_path / "run")
    shutil.rmtree(work / "cache")
    scores = np.concatenate(
        [columns["score"] for columns in labels_of(student_experiment / "work/cache").values()]
    )
    from s4m_stages.refine import refine

    almost_none = f"refine.min_score={float(np.sort(scores)[-2])}"
    refine(student_experiment / "study.py", overrides=[almost_none], work_dir=work)
    train_student("run", *WITHOUT_REFRESH, almost_none, "student.log_every=1", "student.arp.fraction=0.0")
    records = [json.loads(line) for line in (work / "student/metrics.jsonl").read_text().splitlines()]
    steps = [record for record in records if "loss" in record]
    empty = [record for record in steps if record["pseudo_instances"] == 0]
    assert 0 < len(empty) < len(steps)
    said = capsys.readouterr().err
    assert said.count("so the student learns nothing from them") == 1  # once is enough
    assert f"iteration {empty[0]['step']}  no unlabeled image of the last" in said
    for record in steps:
        unsupervised = sum(value for name, value in record.items() if name.startswith("unsup_"))
        assert (unsupervised == 0) == (record["pseudo_instances"] == 0)
        assert record["loss"] > 0


@pytest.mark.parametrize("refresh", [False, True])
def test_train_student__labels_of_ones_own_are_learned_from_until_a_refresh(
    refresh: bool, train_student: TrainStudent, student_experiment: Path, tmp_path: Path
) -> None:
    """Those of somebody's COCO file: here the true ones."""
    work = prepare(student_experiment, tmp_path / "run")
    shutil.rmtree(work / "cache")
    import_coco(student_experiment / "data/train.json", work / "cache")
    train_student("run", *(() if refresh else WITHOUT_REFRESH), "student.iterations=4")
    later = [(2, 2, "taken")] if refresh else []
    assert taken(work) == [(0, 1, "taken"), *later]
    first = json.loads((work / "student/metrics.jsonl").read_text().splitlines()[0])
    assert first["pseudo_instances"] > 0


def test_train_student__missing_shards_are_named_with_the_commands_that_make_them(
    train_student: TrainStudent, student_experiment: Path, tmp_path: Path
) -> None:
    from s4m_stages.refine import refine

    work = prepare(student_experiment, tmp_path / "run")
    shutil.rmtree(work / "cache")
    with pytest.raises(CacheError, match="no pseudo-labels to learn from"):
        train_student("run")
    refine(student_experiment / "study.py", shard="2/3", work_dir=work)
    command = "s4m refine CONFIG --generation 1 --shard"
    with pytest.raises(CacheError, match=rf"(?s)2 of 3 shards are not.*{command} 1/3\n.*{command} 3/3"):
        train_student("run")
    assert not (work / "student").exists()


def test_train_student__failed_before_its_first_checkpoint_begins_with_the_labels_of_now(
    train_student: TrainStudent, student_experiment: Path, tmp_path: Path
) -> None:
    work = prepare(student_experiment, tmp_path / "run")
    with pytest.raises(KeyError, match="NoSuchHook"):
        train_student("run", "custom_hooks=[{'type': 'NoSuchHook'}]")
    (work / "student/generations.jsonl").write_text(json.dumps({"step": 0, "generation": 1}) + "\n")
    refine_otherwise(student_experiment, work, shard=None)
    train_student("run", *WITHOUT_REFRESH, "student.iterations=1")
    assert taken(work) == [(0, 2, "taken")]


def test_train_student__labels_of_an_earlier_students_ema_model_are_reported_as_such(
    uninterrupted: Path, train_student: TrainStudent, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(uninterrupted, tmp_path / "run")
    train_student("run", *WITHOUT_REFRESH, "student.iterations=1", overwrite=True)
    assert "gen-0003 was not made by " in capsys.readouterr().err
    assert taken(tmp_path / "run") == [(0, 3, "taken")]


def test_train_student__resumed_on_a_repaired_generation__names_the_command_that_completes_it(
    train_student: TrainStudent, student_experiment: Path, tmp_path: Path
) -> None:
    work = prepare(student_experiment, tmp_path / "run")
    start_and_kill(student_experiment, work, "student/iter_3.pth")
    generation = Generation(work / "cache", log(work)[-1]["generation"])
    (generation.part_paths()[0] / "score/c.0").unlink()
    repair(generation)
    command = f"s4m refine CONFIG --generation {generation.number} --shard 1/1"
    with pytest.raises(CacheError, match=rf"(?s)1 of 1 shards are not finished.*lacks 2 of 6.*{command}"):
        train_student("run")


def test_train_student__labels_of_another_image_list_are_refused(
    train_student: TrainStudent, student_experiment: Path, tmp_path: Path
) -> None:
    document = json.loads((student_experiment / "data/train.json").read_text())
    gone = document["images"].pop()["id"]
    document["annotations"] = [a for a in document["annotations"] if a["image_id"] != gone]
    fewer = tmp_path / "fewer.json"
    fewer.write_text(json.dumps(document))
    with pytest.raises(UserError, match=r"image ids: stored 6 entries, given 5(.|\n)*s4m refine CONFIG"):
        train_student("run", f"data.unlabeled={fewer}")


def test_train_student__config_without_student_is_refused(tiny_config: Path, tmp_path: Path) -> None:
    from s4m_stages.train_student import train_student as command

    config = tmp_path / "teacher_only.py"
    config.write_text(f"_base_ = [{str(tiny_config)!r}]\nstudent = None\n")
    with pytest.raises(UserError, match="no group `student`"):
        command(config, [], tmp_path / "run")


class RefineAtStep2(Hook):
    """As another process would: a second generation of labels, while the training goes on."""

    def __init__(self, config: str) -> None:
        self.config = Path(config)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        from s4m_stages.refine import refine

        if runner.iter == 1:
            refine(self.config, generation=2, work_dir=Path(runner.work_dir).parent)


@pytest.fixture(autouse=True, scope="module")
def _registered_hooks() -> None:
    from mmengine.registry import HOOKS

    HOOKS.register_module(module=RefineAtStep2, force=True)


def test_train_student__whose_teacher_was_trained_again__is_re_run(
    student_experiment: Path, train_student: TrainStudent, capsys: pytest.CaptureFixture
) -> None:
    """Without pseudo-labels, the teacher's weights alone are what the student has of it."""
    from s4m_stages.run import run

    config = student_experiment / "study.py"
    settings = ["student.init_from=teacher", "student.source=labeled", "student.iterations=1"]
    settings += WITHOUT_REFRESH
    work = train_student("work", *settings)

    def planned() -> str:
        capsys.readouterr()
        run(config, "student", "student", True, settings, work, overwrite=True)
        return capsys.readouterr().out

    assert "student: finished (" in planned()
    write_untrained_teacher(config, work / "teacher/weights.safetensors", seed=1)
    assert "student: re-run, because content of initial weights changed: sha256:" in planned()
