"""Refresh beside a training: a process that makes a generation of each newest checkpoint of the student.

The teacher of a generation is copied out of its checkpoint first, because training deletes old checkpoints;
whoever is killed goes on with the copy. Several processes, a share each, may follow one training.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from safetensors import safe_open

from cache.errors import disk_error
from cache.generation import Generation
from cache.generations import current_number, generations
from cache.locks import FileLock
from cache.sharding import ShardSpec
from s4m_pipeline import console
from s4m_pipeline.engine.checkpoint import latest_checkpoint, read_weights, step_of, write_weights
from s4m_pipeline.errors import UserError
from s4m_pipeline.options.student import StudentOptions
from s4m_pipeline.refine.gate import is_rejected
from s4m_pipeline.refine.inputs import RefineInputs
from s4m_pipeline.refine.session import begin_generation, label_share_of, publish_if_complete

TEACHERS = "teachers"
POLL_S = 1.0
State = Literal["running", "absent", "ended"]
"""Of a training: worked on by a process; stopped, killed or not begun; or at its end."""
ABSENT = (
    "No training runs in {folder}: it was stopped or killed, or has not begun. Waiting for it. Begin it, or "
    "go on with it, with: s4m train-student CONFIG (same --work-dir and --set)"
)
UNFINISHED = (
    "Waiting for {generation.name}, which was begun by another command. If no process works on it any more, "
    "finish it with: s4m refine CONFIG -g {generation.number} (same --work-dir, --set and --teacher as "
    "before), or delete {generation.path}"
)


@dataclass(frozen=True)
class Teacher:
    """Averaged weights of a checkpoint, kept to make one generation."""

    path: Path
    number: int
    """Of the generation."""
    step: int
    """Of the checkpoint."""


def follow(
    inputs: RefineInputs,
    root: Path,
    checkpoints: Path,
    share: ShardSpec,
    *,
    training: Callable[[], State],
    stop: Callable[[], bool],
) -> bool:
    """Label with the newest checkpoint, again and again, until training has ended and its last one is done.

    Args:
        root: the cache's folder.
        checkpoints: the training's folder, with files `iter_N.pth`; those before the end of the burn-in are
            passed over.
        share: this process's share of each generation; the others' processes follow, too.
        training: what it does at this moment. While it is absent, or another command's generation is not
            finished, that is waited for, and the user is told so.
        stop: whether to end after the batch at hand.

    Returns:
        False if `stop` ended it.

    Raises:
        UserError: if nobody would read the labels (see `require_followable`), and as `label_share_of`.
    """
    student = require_followable(inputs)
    console.progress.print(f"Following {checkpoints}", soft_wrap=True)
    told = ""
    while not stop():
        state = training()  # asked first: what is written before the end is then seen
        found = _next_teacher(root, checkpoints, max(student.burn_in, 1), inputs.labelled.class_names)
        if isinstance(found, Teacher):
            if not _make_generation(inputs, root, found, share, stop):
                return False
            continue
        if state == "ended":
            return True
        if found is not None:
            missing = UNFINISHED.format(generation=found)
        else:
            missing = ABSENT.format(folder=checkpoints) if state == "absent" else ""
        if missing not in ("", told):
            console.progress.print(missing, soft_wrap=True)
        told = missing
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
    inputs: RefineInputs, root: Path, teacher: Teacher, share: ShardSpec, stop: Callable[[], bool]
) -> bool:
    """Label this process's share, publish what is complete, wait for the other shares; False if stopped."""
    console.progress.print(f"gen-{teacher.number:04d}: labels by the average of step {teacher.step}")
    inputs = inputs.with_weights(teacher.path)
    generation = begin_generation(inputs, root, teacher.number, share.count)
    if not label_share_of(inputs, generation, share, stop=stop):
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
    """The teacher of the generation in work, else a newer one than the last; None: there is none yet.

    A generation: it comes first, and `s4m refine` without `--follow` has begun it.
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
    """Keep the averaged weights of a checkpoint; None if training has deleted it in between."""
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
