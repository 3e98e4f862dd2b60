"""Which weights of a training are kept, and when it ends early: both by AP on the validation images."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from safetensors import safe_open
from torch import Tensor

from s4m_pipeline.core import console
from s4m_pipeline.core.paths import BEST_SO_FAR
from s4m_pipeline.experiment.metrics import validations
from s4m_pipeline.train.distributed import on_first_rank


class KeepBest(Hook):
    """Saves the weights of each validation with a higher AP than all before, the EMA model's if there is one.

    The file names its validation, so that the two are consistent whenever the process is killed.

    Args:
        folder: of the training.
        write: called with path, tensors and a text for the header.
    """

    priority = "ABOVE_NORMAL"  # before EMAHook, which puts the trained weights back after a validation

    def __init__(self, folder: Path, write: Callable[[Path, dict[str, Tensor], str], None]) -> None:
        self.folder = folder
        self.write = write

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        if metrics:  # none of a pass that a signal cut short
            found = {"step": runner.iter, **metrics}
            on_first_rank(lambda: self._save_if_best(runner, found))

    def _save_if_best(self, runner: Any, found: dict[str, float]) -> None:
        if found["AP"] > best_validation(self.folder).get("AP", -1):
            self.write(self.folder / BEST_SO_FAR, runner.network.state_dict(), json.dumps(found))


class StopWithoutGain(Hook):
    """Ends a training after `patience` validations without a higher AP.

    Counted are the validations in metrics.jsonl, so that a resumed training ends where it would have ended.
    """

    priority = "LOWEST"  # after MetricsHook has recorded the validation

    def __init__(self, folder: Path, patience: int) -> None:
        self.folder = folder
        self.patience = patience

    def before_train(self, runner: Any) -> None:
        self._stop_if_stalled(runner)

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        self._stop_if_stalled(runner)

    def _stop_if_stalled(self, runner: Any) -> None:
        if on_first_rank(lambda: validations_without_gain(self.folder)) >= self.patience:
            console.progress.print(
                f"iteration {runner.iter}  no higher validation AP in {self.patience} validations: the "
                "training ends here (patience).",
                soft_wrap=True,
            )
            runner.train_loop.stop_training = True


def best_validation(folder: Path) -> dict[str, Any]:
    """The validation of the best weights so far: `step`, `AP`, `AP50`, `AP75`; empty before the first."""
    path = folder / BEST_SO_FAR
    if not path.is_file():
        return {}
    with safe_open(path, framework="pt") as file:
        found: dict[str, Any] = json.loads(file.metadata()["validation"])
    return found


def validations_without_gain(folder: Path) -> int:
    """Validations since the one with the highest AP, of equal ones the first."""
    aps = [validation["AP"] for validation in validations(folder)]
    return len(aps) - 1 - aps.index(max(aps)) if aps else 0
