"""run.json of a stage: settings, data, versions, sessions and result, written by the process that runs it."""

import json
import platform
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from s4m_cache.atomic import write_text
from s4m_cache.locks import FileLock
from s4m_pipeline.core import console
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.core.paths import IMAGE_FILES, RUN
from s4m_pipeline.core.signals import Interrupted
from s4m_pipeline.experiment.changes import changes, plain
from s4m_pipeline.experiment.checkpoints import latest_checkpoint
from s4m_pipeline.experiment.environment import git_state, now, versions
from s4m_pipeline.experiment.image_files import image_changes, record_images
from s4m_pipeline.experiment.lock import lock_training, running_process

_LOGGERS = "log/vis_data"


@dataclass
class RunRecord:
    """The run.json of a stage; every change is written at once and atomically, by rank 0.

    Rank 0 locks the folder from `open` to the end of the session, or until it dies.
    """

    folder: Path
    content: dict[str, Any]
    lock: FileLock | None
    """None on the other ranks."""

    @classmethod
    def open(
        cls,
        folder: Path,
        stage: str,
        config: Mapping[str, Any],
        data: Mapping[str, str],
        *,
        images: Sequence[Path] = (),
        overwrite: bool,
    ) -> "RunRecord":
        """Start a stage in `folder`, or resume the interrupted run found there.

        Args:
            config: the whole config with all defaults, as plain values.
            data: sha256 of each file that the result depends on.
            images: files that the result depends on, which are recorded at the start.
            overwrite: delete the outputs of an earlier run first.

        Raises:
            UserError: if the folder holds a finished run, or an interrupted one of different settings or
                data, or another process works in it.
        """
        folder.mkdir(parents=True, exist_ok=True)
        lock = lock_training(folder)
        try:
            if overwrite:
                _delete_outputs(folder)
            for half_written in folder.glob(".tmp-*"):  # by a run that was killed
                half_written.unlink()
            content = _content(folder, stage, config, data)
            if images and not content["sessions"]:
                record_images(folder, images)
        except BaseException:
            lock.release()
            raise
        content.update(status="running", versions=versions(), git=git_state(), result=None)
        content["sessions"].append({"started": now(), "host": platform.node()})
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
        began = time.perf_counter()
        result: dict[str, Any] = {}
        try:
            yield result
        except Interrupted as signal:
            self._close("interrupted")
            console.progress.print(f"{signal}: saved in {self.folder}; the same command resumes from there.")
            raise SystemExit(signal.exit_code) from None
        except BaseException:
            self._close("failed")
            raise
        else:
            self._close("finished", {**result, "seconds": round(time.perf_counter() - began, 1)})
        finally:  # after the last write: whoever finds the folder unlocked also finds how the run ended
            if self.lock is not None:
                self.lock.release()

    def _close(self, status: str, result: Mapping[str, Any] | None = None) -> None:
        self.content["sessions"][-1]["ended"] = now()
        self.content.update(status=status, result=result)
        self._write()

    def _write(self) -> None:
        from mmengine.dist import is_main_process  # imports torch, which readers can do without

        if is_main_process():
            write_text(self.folder / RUN, json.dumps(self.content, indent=2) + "\n")


def read_run(folder: Path) -> dict[str, Any] | None:
    """The content of a stage's run.json, or None where the stage has not begun.

    Raises:
        UserError: if it is damaged.
    """
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


TrainingState = Literal["running", "absent", "ended"]
"""Of a training: a process works on it; it was stopped, killed or has not started; or it has ended."""


def training_state(folder: Path) -> TrainingState:
    """What the training in a folder does at this moment, on whatever machine."""
    running = running_process(folder)  # asked first: whoever released the folder has recorded how it ended
    if (read_run(folder) or {}).get("status") in ("finished", "failed"):
        return "ended"
    return "running" if running else "absent"


def _content(folder: Path, stage: str, config: Mapping[str, Any], data: Mapping[str, str]) -> dict[str, Any]:
    """That of the run to resume; of a new one where nothing was saved to resume from."""
    earlier = read_run(folder)
    if earlier is None or (earlier["status"] != "finished" and latest_checkpoint(folder) is None):
        return {"stage": stage, "config": plain(config), "data": dict(data), "sessions": []}
    if earlier["status"] == "finished":
        raise UserError(
            f"{stage} is already finished in {folder} (result: {earlier['result']}).\n"
            "Use --overwrite to delete it and train again, or another --work-dir."
        )
    if changed := [*changes(earlier, config, data), *image_changes(folder)]:
        raise UserError(
            f"{folder} holds an interrupted run of different settings or data:\n  "
            + "\n  ".join(changed[:10])
            + "\nRepeat the earlier command to resume it, use --overwrite to delete it and start from "
            "scratch, or give another --work-dir."
        )
    return {**earlier, "config": plain(config)}


def _delete_outputs(folder: Path) -> None:
    """Delete what a stage writes and nothing else: the folder may be the user's own."""
    if (folder / _LOGGERS).is_dir():
        shutil.rmtree(folder / _LOGGERS)
    for pattern in (RUN, IMAGE_FILES, "*.jsonl", "*.pth", "last_checkpoint", "*.safetensors", "log/*"):
        for path in folder.glob(pattern):
            path.unlink()
