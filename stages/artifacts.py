"""The record of a stage's run, and the finished teacher that others need."""

import json
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cache.atomic import write_text
from cache.errors import LockedError
from cache.fingerprint import file_hash
from cache.locks import FileLock
from s4m_pipeline import console
from s4m_pipeline.errors import UserError
from s4m_pipeline.layout import RUN, TEACHER, WEIGHTS
from s4m_pipeline.options.experiment import FREE_TO_CHANGE

INITIAL_WEIGHTS = "initial weights"
"""Under this name a record keeps what their file held."""
LOCK = "LOCK"
_INIT_FROM = frozenset({"teacher.init_from", "student.init_from"})
_TENSORBOARD = "log/vis_data"

_PACKAGES = (
    "s4m-pipeline",
    "torch",
    "torchvision",
    "onedl-mmdetection",
    "onedl-mmengine",
    "onedl-mmcv",
    "rf-sam-2",
    "numpy",
)


def teacher_weights(experiment: Path) -> Path:
    """The finished teacher of an experiment.

    Raises:
        UserError: if there is none, with the command that makes it.
    """
    path = experiment / TEACHER / WEIGHTS
    if not path.is_file():
        raise UserError(
            f"No finished teacher at {path}.\nMake it with: s4m pretrain-teacher CONFIG (same --work-dir)"
        )
    return path


def initial_content(init_from: str | None) -> dict[str, str]:
    """The hash of the file that a training begins with; empty if there is none, or none any more."""
    if init_from is None or not Path(init_from).is_file():
        return {}
    return {INITIAL_WEIGHTS: file_hash(Path(init_from))}


@dataclass
class RunRecord:
    """The run.json of a stage; every change is written at once and atomically, by rank 0.

    Rank 0 locks the folder from `open` to the end of the session, or until it dies (see `is_running`).
    """

    folder: Path
    content: dict[str, Any]
    lock: FileLock | None
    """None on the other ranks."""

    @classmethod
    def open(
        cls, folder: Path, stage: str, config: Mapping[str, Any], data: Mapping[str, str], *, overwrite: bool
    ) -> "RunRecord":
        """Start a stage in `folder`, or go on with the interrupted run found there.

        Args:
            config: the whole config with all defaults, as plain values.
            data: sha256 of each file that the result depends on.
            overwrite: delete the outputs of an earlier run first.

        Raises:
            UserError: if the folder holds a finished run, or an interrupted one of other settings or data, or
                another process works in it.
        """
        folder.mkdir(parents=True, exist_ok=True)
        lock = _lock(folder)
        try:
            if overwrite:
                _delete_outputs(folder)
            for half_written in folder.glob(".tmp-*"):  # by a run that was killed
                half_written.unlink()
            content = _content(folder, stage, config, data)
        except BaseException:
            lock.release()
            raise
        content.update(status="running", versions=_versions(), git=_git_state(), result=None)
        content["sessions"].append({"started": _now(), "host": platform.node()})
        record = cls(folder, content, lock)
        record._write()
        return record

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "lock": None}

    def note(self, **values: Any) -> None:
        """Add to the entry of this session."""
        self.content["sessions"][-1].update(values)
        self._write()

    @contextmanager
    def session(self) -> Iterator[dict[str, Any]]:
        """Do the stage's work in this context, and put its result into the dict that it gives.

        The record ends as "finished"; as "interrupted" when a signal stopped a training that has saved
        itself, which then exits with the signal's code; or as "failed".
        """
        from s4m_pipeline.engine.hooks import Interrupted

        began = time.perf_counter()
        result: dict[str, Any] = {}
        try:
            yield result
        except Interrupted as signal:
            self.close("interrupted")
            console.progress.print(f"{signal}: saved in {self.folder}; the same command goes on from there.")
            raise SystemExit(signal.exit_code) from None
        except BaseException:
            self.close("failed")
            raise
        else:
            self.close("finished", {**result, "seconds": round(time.perf_counter() - began, 1)})
        finally:  # after the last word: who finds the folder free finds how it ended, too
            if self.lock is not None:
                self.lock.release()

    def close(self, status: str, result: Mapping[str, Any] | None = None) -> None:
        """End this session as "finished", "interrupted" or "failed"."""
        self.content["sessions"][-1]["ended"] = _now()
        self.content.update(status=status, result=result)
        self._write()

    def _write(self) -> None:
        from mmengine.dist import is_main_process

        if is_main_process():
            write_text(self.folder / RUN, json.dumps(self.content, indent=2) + "\n")


def is_running(folder: Path) -> bool:
    """Whether a process, on whatever machine, works on the stage of this folder; a killed one does not."""
    try:
        FileLock(folder / LOCK, exclusive=False).release()
    except LockedError:
        return True
    except FileNotFoundError:
        pass
    return False


def read_run(folder: Path) -> dict[str, Any] | None:
    """The content of a stage's run.json, or None where the stage has not begun."""
    path = folder / RUN
    if not path.exists():
        return None
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        return content
    except ValueError as error:
        raise UserError(
            f"{path} is damaged: {error}\nDelete it with its folder, or use --overwrite."
        ) from error


def _lock(folder: Path) -> FileLock:
    try:
        return FileLock(folder / LOCK, exclusive=True)
    except LockedError:
        time.sleep(0.2)  # `is_running` holds it for a moment
    try:
        return FileLock(folder / LOCK, exclusive=True)
    except LockedError as error:
        raise UserError(
            f"Another process works in this folder: {error}.\nWait for it or stop it; the same command then "
            "goes on from there. For a second run, give another --work-dir."
        ) from error


def _content(folder: Path, stage: str, config: Mapping[str, Any], data: Mapping[str, str]) -> dict[str, Any]:
    """That of the run to go on with; of a new one where nothing was saved that could be gone on with."""
    earlier = read_run(folder)
    if earlier is None or (earlier["status"] != "finished" and not any(folder.glob("iter_*.pth"))):
        return {"stage": stage, "config": _plain(config), "data": dict(data), "sessions": []}
    if earlier["status"] == "finished":
        raise UserError(
            f"{stage} is already finished in {folder} (result: {earlier['result']}).\n"
            "Use --overwrite to do it again, or another --work-dir."
        )
    _refuse_other(folder / RUN, changes(earlier, config, data))
    return {**earlier, "config": _plain(config)}


def _delete_outputs(folder: Path) -> None:
    """Delete what a stage writes and nothing else: the folder may be the user's own."""
    if (folder / _TENSORBOARD).is_dir():
        shutil.rmtree(folder / _TENSORBOARD)
    for pattern in (RUN, "*.jsonl", "*.pth", "last_checkpoint", "*.safetensors", "log/*"):
        for path in folder.glob(pattern):
            path.unlink()


def changes(run: Mapping[str, Any], config: Mapping[str, Any], data: Mapping[str, str]) -> list[str]:
    """In what a run's record differs from settings and data of now, one line each, as far as it matters.

    Initial weights are compared by what their file holds; by its name where that is not known of both, as the
    file of a training that has begun may be gone.

    Args:
        run: content of run.json.
        config: settings that the stage depends on.
        data: sha256 of each file that it depends on.
    """
    old = {**_flat(run["config"]), **{f"content of {k}": v for k, v in run["data"].items()}}
    new = {**_flat(_plain(config)), **{f"content of {k}": v for k, v in data.items()}}
    known = INITIAL_WEIGHTS in run["data"] and INITIAL_WEIGHTS in data
    free = FREE_TO_CHANGE | (_INIT_FROM if known else {f"content of {INITIAL_WEIGHTS}"})
    return [
        f"{key}: {old.get(key, 'absent')} then, {new.get(key, 'absent')} now"
        for key in sorted({*old, *new})
        if old.get(key, "absent") != new.get(key, "absent") and key not in free
    ]


def _refuse_other(path: Path, differing: Sequence[str]) -> None:
    if differing:
        raise UserError(
            f"{path.parent} holds an interrupted run of other settings or data:\n  "
            + "\n  ".join(differing[:10])
            + "\nRepeat the earlier command to go on with it, use --overwrite to start anew, "
            "or another --work-dir."
        )


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        pairs = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list):
        pairs = [(str(place), item) for place, item in enumerate(value)]
    else:
        return {prefix: value}
    return {k: v for key, item in pairs for k, v in _flat(item, f"{prefix}.{key}" if prefix else key).items()}


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON would give it back: tuples as lists."""
    plain: dict[str, Any] = json.loads(json.dumps(config, default=str))
    return plain


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def _git_state() -> dict[str, Any] | None:
    """Commit and cleanliness of the repository that this code runs from, or None where there is none."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.CalledProcessError):
        return None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
