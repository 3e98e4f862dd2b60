"""A hook that configs of tests name: all processes of a distributed training receive a signal."""

import os
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module(force=True)
class SignalAll(Hook):
    """In the middle of step 3 each rank sends itself a signal; it also leaves its process id in a file.

    Args:
        launcher: whether the process that started the ranks receives it, too.
    """

    def __init__(self, number: int, launcher: bool) -> None:
        self.number = number
        self.launcher = launcher

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if runner.iter != 2:
            return
        Path(runner.work_dir, f"rank-{runner.rank}.pid").write_text(str(os.getpid()))
        os.kill(os.getpid(), self.number)
        if self.launcher and runner.rank == 0:
            os.kill(os.getppid(), self.number)


def signaled_config(config: Path, folder: Path, number: int, *, launcher: bool) -> Path:
    """A config of the same training in `folder`, with this hook."""
    path = folder / config.name
    hook = {"type": "SignalAll", "number": int(number), "launcher": launcher}
    path.write_text(
        f"_base_ = [{str(config)!r}]\ncustom_imports = dict(imports=['tests.signal_hook'])\n"
        f"custom_hooks = [{hook!r}]\n"
    )
    return path


def living(folder: Path) -> list[Path]:
    """The ranks, of those that left their ids in the training's folder, that have not ended."""
    ids = sorted(folder.glob("rank-*.pid"))
    assert len(ids) == 2
    return [path for path in ids if Path("/proc", path.read_text()).exists()]
