"""mmengine's Runner with a quiet console and checkpoints that run no code when read."""

import logging
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.dist import is_distributed
from mmengine.logging import MMLogger
from mmengine.model import BaseModel, is_model_wrapper
from mmengine.runner import Runner

from s4m_pipeline.engine.checkpoint import load_checkpoint


class QuietRunner(Runner):
    """A Runner that logs to `log/train.log` instead of the console and loads checkpoints safely.

    Args:
        work_dir: folder of the stage.
        parts: keywords of mmengine's Runner.
    """

    timestamp = "log"  # names the folder of the log: one for a run, however often it is resumed

    def __init__(self, *, work_dir: Path, **parts: Any) -> None:
        # A unique name, because mmengine keeps loggers and message hubs by name for the life of the process.
        super().__init__(
            work_dir=str(work_dir),
            experiment_name=f"{work_dir.name}-{uuid.uuid4().hex[:8]}",
            default_scope="mmdet",
            # Whoever started several processes, they have joined by now; mmengine only wants to know that.
            launcher="pytorch" if is_distributed() else "none",
            **parts,
        )

    @property
    def network(self) -> BaseModel:
        """The model without the wrapper that joins it with those of other devices."""
        network: BaseModel = self.model.module if is_model_wrapper(self.model) else self.model
        return network

    def build_logger(
        self, log_level: int | str = "INFO", log_file: str | None = None, **kwargs: Any
    ) -> MMLogger:
        """A logger that writes to the file only."""
        logger = super().build_logger(log_level, str(Path(self.work_dir, "log", "train.log")), **kwargs)
        for handler in [handler for handler in logger.handlers if type(handler) is logging.StreamHandler]:
            logger.removeHandler(handler)
        return logger

    def dump_config(self) -> None:
        """Nothing: run.json holds the config."""

    def load_checkpoint(
        self, filename: str, map_location: Any = "cpu", strict: bool = False, revise_keys: Any = ()
    ) -> dict[str, Any]:
        """Load model weights and let the hooks read their parts, as mmengine does.

        Raises:
            UserError: if the file is damaged or holds code.
        """
        checkpoint = load_checkpoint(Path(filename))
        self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
        self.network.load_state_dict(checkpoint["state_dict"], strict=True)
        return checkpoint

    def resume_from(self, checkpoint: Path) -> None:
        """Continue from a checkpoint when training starts."""
        self._load_from = str(checkpoint)
        self._resume = True

    def restore_weights(self, checkpoint: Path) -> None:
        """Go back to the weights, their average and the optimizer of a checkpoint; the step count goes on."""
        self._resume = True  # the averaging hook then also takes back its own copy
        saved: Mapping[str, Any] = self.load_checkpoint(str(checkpoint))
        assert self.optim_wrapper is not None  # training has started
        self.optim_wrapper.load_state_dict(saved["optimizer"])
