"""Refresh beside a training: make a generation of labels with each newest checkpoint of the student.

The teacher of a generation is copied out of its checkpoint first, because training deletes old checkpoints;
after a kill, the copy is used. Several processes, a shard each, may follow one training.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from s4m_cache.errors import disk_error
from s4m_cache.generation import Generation
from s4m_cache.generations import current_number, generations
from s4m_cache.locks import FileLock
from s4m_cache.sharding import ShardSpec
from s4m_pipeline.config.student import StudentOptions
from s4m_pipeline.core import console
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.experiment.checkpoints import latest_checkpoint, step_of
from s4m_pipeline.experiment.run_record import training_state
from s4m_pipeline.models.checkpoint import read_weights, write_weights
from s4m_pipeline.refine.gate import is_rejected
from s4m_pipeline.refine.generation import begin_generation, label_shards
from s4m_pipeline.refine.inputs import RefineInputs
from s4m_pipeline.refine.publish import publish_if_complete

TEACHERS = "teachers"
POLL_S = 1.0
ABSENT = (
    "No training runs in {folder}: it was stopped or killed, or has not begun. Waiting for it. Start or "
    "resume it with: s4m train-student CONFIG (same --work-dir and --set)"
)
UNFINISHED = (
    "Waiting for {generation.name}, which was begun by another command. If no process works on it any more, "
    "finish it with: s4m refine CONFIG -g {generation.number} (same --work-dir, --set and --teacher as "
    "before), or delete {generation.path}"
)


@dataclass(frozen=True)
class Teacher:
    """EMA weights of a checkpoint, kept to make one generation."""

    path: Path
    number: int
    """Of the generation."""
    step: int
    """Of the checkpoint."""


def follow(
    inputs: RefineInputs,
    root: Path,
    checkpoints: Path,
    shard: ShardSpec,
    *,
    stop: Callable[[], bool],
) -> bool:
    """Label with each newest checkpoint, until training has ended and its last one is used.

    While the training is stopped, or another command's generation is not finished, this waits and says so.

    Args:
        root: the cache's folder.
        checkpoints: the training's folder, with files `iter_N.pth`; those before the end of the burn-in are
            ignored.
        shard: this process's shard of each generation; other processes follow with theirs.
        stop: whether to end after the current batch.

    Returns:
        False if `stop` ended it.

    Raises:
        UserError: if nobody would read the labels (see `require_followable`), and as `label_shards`.
    """
    student = require_followable(inputs)
    console.progress.print(f"Following {checkpoints}", soft_wrap=True)
    last = ""
    while not stop():
        state = training_state(checkpoints)  # asked first: what is written before the end is then seen
        found = _next_teacher(root, checkpoints, max(student.burn_in, 1), inputs.labeled.class_names)
        if isinstance(found, Teacher):
            if not _make_generation(inputs, root, found, shard, stop):
                return False
            continue
        if state == "ended":
            return True
        if found is not None:
            waiting = UNFINISHED.format(generation=found)
        else:
            waiting = ABSENT.format(folder=checkpoints) if state == "absent" else ""
        if waiting not in ("", last):
            console.progress.print(waiting, soft_wrap=True)
        last = waiting
        time.sleep(POLL_S)
    return False


def require_followable(inputs: RefineInputs) -> StudentOptions:
    """The student's options, if a training with them reads labels that another process makes.

    Raises:
        UserError: else, with the setting to change.
    """
    student = inputs.options.student
    if student is None:
        raise UserError("--follow: the config has no group `student`, so there is no training to follow.")
    if (address := inputs.options.cache.root) and "://" in address:
        raise UserError(
            f"--follow: cache.root is {address}: a file system is needed, where teachers are kept."
        )
    if student.source != "cache":
        raise UserError(f"--follow: student.source is {student.source!r}: the training reads no labels.")
    if student.refresh_every is not None:
        raise UserError(
            f"--follow: student.refresh_every is {student.refresh_every}: the training makes new labels "
            "itself.\nStart it with student.refresh_every=None to leave them to this command, which needs "
            "the same setting."
        )
    return student


def _make_generation(
    inputs: RefineInputs, root: Path, teacher: Teacher, shard: ShardSpec, stop: Callable[[], bool]
) -> bool:
    """Label this process's shard, publish if complete, wait for the other shards; False if stopped."""
    console.progress.print(f"gen-{teacher.number:04d}: labels by the EMA weights of iteration {teacher.step}")
    inputs = inputs.with_weights(teacher.path)
    generation = begin_generation(inputs, root, teacher.number, shard.count, shard)
    if not label_shards(inputs, generation, shard, stop=stop):
        return False
    publish_if_complete(inputs, generation)
    while not _is_decided(generation):
        if stop():
            return False
        time.sleep(POLL_S)
    return True


def _next_teacher(
    root: Path, checkpoints: Path, first_step: int, classes: list[str]
) -> Teacher | Generation | None:
    """The teacher of the unfinished generation, else a newer one than the last; None: there is none yet.

    A generation instead of a teacher: it has to be finished first, by the `s4m refine` that began it.
    """
    folder = root / TEACHERS
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "LOCK", exclusive=True, wait=True):
            last = _last_teacher(folder)
            if last is not None and not _is_decided(Generation(root, last.number)):
                return last
            known = generations(root)
            if known and not _is_decided(known[-1]):
                return known[-1]
            newest = latest_checkpoint(checkpoints)
            if newest is None or step_of(newest) < max(first_step, last.step + 1 if last else 0):
                return None
            number = max([generation.number for generation in known], default=0) + 1
            made = _copy(newest, folder, number, classes)
            if made is not None and last is not None:
                last.path.unlink()
            return made
    except OSError as error:
        raise disk_error(folder, 1 << 28, error) from error


def _copy(checkpoint: Path, folder: Path, number: int, classes: list[str]) -> Teacher | None:
    """Keep the EMA weights of a checkpoint; None if training has deleted it in between."""
    try:
        weights = read_weights(checkpoint)
    except (UserError, FileNotFoundError):
        if checkpoint.exists():
            raise
        return None
    path, step = _path(folder, number), step_of(checkpoint)
    write_weights(path, weights.tensors, weights.classes or tuple(classes), step=str(step))
    return Teacher(path, number, step)


def _last_teacher(folder: Path) -> Teacher | None:
    numbers = [int(path.stem.removeprefix("gen-")) for path in folder.glob("gen-*.safetensors")]
    if not numbers:
        return None
    path = _path(folder, max(numbers))
    with safe_open(path, framework="pt") as file:
        return Teacher(path, max(numbers), int(file.metadata()["step"]))


def _path(folder: Path, number: int) -> Path:
    return folder / f"gen-{number:04d}.safetensors"


def _is_decided(generation: Generation) -> bool:
    """Whether it was published or rejected, or a later one was."""
    return current_number(generation.root) >= generation.number or is_rejected(generation)
