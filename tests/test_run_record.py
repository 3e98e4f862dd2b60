"""The record of a stage's run, and the lock that says whether somebody works on it."""

import json
import multiprocessing
import pickle
import signal
import time
from pathlib import Path

import pytest

from s4m_cache.locks import FileLock
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.experiment.run_record import RunRecord, running_process, training_state

FORK = multiprocessing.get_context("fork")


def begin(folder: Path, **config: object) -> RunRecord:
    return RunRecord.open(folder, "train-student", config, {}, overwrite=False)


def status(folder: Path) -> str:
    return json.loads((folder / "run.json").read_text())["status"]


def test_running_process__from_open_to_the_end_of_the_session_and_no_longer(tmp_path: Path) -> None:
    folder = tmp_path / "student"
    assert not running_process(folder)
    record = begin(folder)
    assert running_process(folder)
    with record.session():
        assert running_process(folder)
    assert not running_process(folder)
    assert status(folder) == "finished"


@pytest.mark.parametrize("error", [RuntimeError, UserError, KeyboardInterrupt])
def test_running_process__failed_session_has_let_go(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), begin(tmp_path).session():
        raise error
    assert not running_process(tmp_path)
    assert status(tmp_path) == "failed"


def _hold(folder: Path) -> None:
    with begin(folder).session():
        (folder / "held").touch()
        signal.pause()


def test_run_record__killed_training__is_absent_until_it_is_resumed(tmp_path: Path) -> None:
    assert training_state(tmp_path) == "absent"
    killed = FORK.Process(target=_hold, args=(tmp_path,))
    killed.start()
    while not (tmp_path / "held").exists():
        assert killed.is_alive()
        time.sleep(0.01)
    assert training_state(tmp_path) == "running"
    killed.kill()
    killed.join()
    assert status(tmp_path) == "running"  # so the record alone does not tell
    assert training_state(tmp_path) == "absent"
    with begin(tmp_path).session():
        assert training_state(tmp_path) == "running"
    assert training_state(tmp_path) == "ended"


@pytest.mark.parametrize("overwrite", [False, True])
def test_run_record__second_process_is_refused_naming_the_first_and_changes_nothing(
    tmp_path: Path, overwrite: bool
) -> None:
    (tmp_path / "iter_2.pth").touch()
    (tmp_path / ".tmp-iter_4.pth-1").touch()  # the first one is about to rename it
    with FileLock(tmp_path / "LOCK", exclusive=True):
        before = {path: path.read_bytes() for path in tmp_path.iterdir()}
        with pytest.raises(UserError, match=r"Another process trains(.|\n)*process \d+(.|\n)*--work-dir"):
            RunRecord.open(tmp_path, "train-student", {}, {}, overwrite=overwrite)
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_run_record__other_settings__are_refused_only_once_something_was_saved(tmp_path: Path) -> None:
    for seed in (0, 5):
        with pytest.raises(ZeroDivisionError), begin(tmp_path, seed=seed).session():
            raise ZeroDivisionError
    assert json.loads((tmp_path / "run.json").read_text())["config"] == {"seed": 5}
    (tmp_path / "iter_2.pth").touch()
    with pytest.raises(UserError, match=r"seed changed: 5 -> 0(.|\n)*--overwrite"):
        begin(tmp_path, seed=0)


def test_run_record__overwrite__deletes_what_tensorboard_wrote_and_nothing_of_the_users(
    tmp_path: Path,
) -> None:
    with begin(tmp_path).session():
        (tmp_path / "log/vis_data").mkdir(parents=True)
        for name in ("log/vis_data/events.out.tfevents.1.host", "log/train.log", "notes.txt"):
            (tmp_path / name).touch()
    RunRecord.open(tmp_path, "train-student", {}, {}, overwrite=True)
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"LOCK", "run.json", "notes.txt"}


def test_run_record__refused_run_leaves_the_folder_free(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), begin(tmp_path, seed=0).session():
        (tmp_path / "iter_2.pth").touch()
        raise ZeroDivisionError
    with pytest.raises(UserError, match="seed changed: 0 -> 5") as refused:
        begin(tmp_path, seed=5)
    assert not running_process(tmp_path), refused
    begin(tmp_path, seed=0)


def test_run_record__sent_to_another_rank_leaves_the_lock_behind(tmp_path: Path) -> None:
    record = begin(tmp_path)
    copy = pickle.loads(pickle.dumps(record))
    assert copy.content == record.content
    del copy
    assert running_process(tmp_path)
