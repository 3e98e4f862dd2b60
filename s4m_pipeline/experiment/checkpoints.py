"""Which checkpoints a training has saved, by their file names."""

from pathlib import Path

from s4m_pipeline.core.errors import UserError
from s4m_pipeline.core.paths import TEACHER, WEIGHTS


def latest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint `iter_N.pth` with the highest N, or None."""
    return max(folder.glob("iter_*.pth"), key=step_of, default=None)


def step_of(checkpoint: Path) -> int:
    """The iteration at which `iter_N.pth` was written."""
    return int(checkpoint.stem.removeprefix("iter_"))


def teacher_weights(experiment: Path) -> Path:
    """The weights of an experiment's finished teacher.

    Raises:
        UserError: if there are none, with the command that makes them.
    """
    path = experiment / TEACHER / WEIGHTS
    if not path.is_file():
        raise UserError(
            f"No finished teacher at {path}.\nMake it with: s4m pretrain-teacher CONFIG (same --work-dir)"
        )
    return path
