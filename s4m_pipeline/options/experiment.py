"""An experiment: one config file with all its groups of settings."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from s4m_pipeline.errors import UserError
from s4m_pipeline.options.groups import (
    CacheOptions,
    DataOptions,
    RefineOptions,
    SamOptions,
    SdOptions,
    TrainOptions,
)
from s4m_pipeline.options.parsing import OptionFaults, parse_group, unknown_key
from s4m_pipeline.options.student import StudentOptions


@dataclass(frozen=True, kw_only=True)
class Options:
    """All of our keys of one config."""

    data: DataOptions = field(metadata={"group": DataOptions})
    """The data set."""
    teacher: TrainOptions = field(metadata={"group": TrainOptions})
    """Training of the teacher."""
    sam: SamOptions = field(metadata={"group": SamOptions})
    """SAM 2."""
    sd: SdOptions = field(metadata={"group": SdOptions})
    """Structural distillation."""
    refine: RefineOptions = field(metadata={"group": RefineOptions})
    """Pseudo-labels and their refinement."""
    cache: CacheOptions = field(metadata={"group": CacheOptions})
    """Where they are kept."""
    student: StudentOptions | None = field(metadata={"group": StudentOptions})
    """Training of the student; a config without it ends with the pseudo-labels."""

    def require_student(self) -> StudentOptions:
        """The group `student`.

        Raises:
            UserError: if the config has none.
        """
        if self.student is None:
            raise UserError(
                "The config has no group `student`.\nAdd one; configs/demo/demo.py is an example, and "
                "s4m_pipeline/options/student.py explains its keys."
            )
        return self.student


RUNNER_KEYS = (
    "model",
    "optim_wrapper",
    "param_scheduler",
    "train_pipeline",
    "test_pipeline",
    "custom_hooks",
    "custom_imports",
    "activation_checkpointing",
    "compile",
)
"""Top-level keys whose content is mmengine's or mmdet's; the rest must be a field of `Options`."""

_LISTS_OF_PARTS = ("param_scheduler", "train_pipeline", "test_pipeline", "custom_hooks")
_REQUIRED_LISTS = ("train_pipeline", "test_pipeline")
_REQUIRED_PARTS: dict[str, Any] = {
    "model": {"backbone": {}, "panoptic_head": {"loss_cls": {}}, "panoptic_fusion_head": {}},
    "optim_wrapper": {},
}
"""Dictionaries that must be there, and those within them that the program fills in."""

_OF_TRAININGS = (
    "workers",
    "validate_every",
    "checkpoint_every",
    "keep_checkpoints",
    "log_every",
    "tensorboard",
    "rank_timeout_s",
)
FREE_TO_CHANGE = frozenset(
    {f"{group}.{name}" for group in ("teacher", "student") for name in _OF_TRAININGS}
    | {f"data.{name}" for name in ("root", "labeled", "unlabeled", "val", "test", "test_images")}
    | {f"sam.{name}" for name in ("weights_dir", "encoder_batch", "decoder_chunk")}
    | {f"refine.{name}" for name in ("batch_size", "workers", "max_unreadable", "ground_truth")}
    | {"student.keep_generations"}
)
"""Settings that do not change what is learnt: an interrupted run may go on with others.

Of files, what they hold is compared instead.
"""


def load_experiment(path: Path, overrides: Sequence[str]) -> tuple[Options, dict[str, Any]]:
    """Read a config file with `--set` overrides on top.

    Returns:
        Our options, checked, and the whole config as plain values.

    Raises:
        UserError: one message with all faults.
    """
    from s4m_pipeline.config import load_config  # mmengine is slow to import, and --help has no need of it

    config, faults = load_config(path, overrides, [item.name for item in dataclasses.fields(Options)])
    return parse_options(config, faults), config


def settings_of(options: Options, config: Mapping[str, Any], *groups: str) -> dict[str, Any]:
    """What a stage depends on, as plain values: the parts for mmengine and mmdet, and some of our groups."""
    ours = dataclasses.asdict(options)
    return {key: config[key] for key in RUNNER_KEYS if key in config} | {name: ours[name] for name in groups}


def parse_options(config: Mapping[str, Any], earlier_faults: Sequence[str] = ()) -> Options:
    """Turn a config's keys into checked options.

    Args:
        config: the whole config; keys of `RUNNER_KEYS` are passed over.
        earlier_faults: faults found while reading the config, to be reported together with these.

    Raises:
        UserError: one message with all faults; unknown keys are answered with the nearest known one.
    """
    faults = list(earlier_faults)
    groups = {item.name: item.metadata["group"] for item in dataclasses.fields(Options)}
    known = [*groups, *RUNNER_KEYS]
    faults += [unknown_key(key, known) for key in config if key not in known]
    faults += _part_faults(config, _REQUIRED_PARTS)
    faults += _list_faults(config)
    parsed: dict[str, Any] = {}
    for name, group in groups.items():
        if group is StudentOptions and config.get(name) is None:
            parsed[name] = None
            continue
        try:
            parsed[name] = parse_group(group, name, config.get(name, {}))
        except OptionFaults as error:
            faults += error.faults
    if faults:
        raise UserError("The config has {} fault(s):\n  {}".format(len(faults), "\n  ".join(faults)))
    return Options(**parsed)


def _part_faults(config: Mapping[str, Any], required: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Parts for mmengine and mmdet that are missing or no dictionary."""
    faults = []
    for key, within in required.items():
        if key not in config:
            faults.append(f"{prefix}{key}: missing")
        elif not isinstance(config[key], Mapping):
            faults.append(f"{prefix}{key}: {config[key]!r} given, a dictionary expected")
        else:
            faults += _part_faults(config[key], within, f"{prefix}{key}.")
    return faults


def _list_faults(config: Mapping[str, Any]) -> list[str]:
    """Parts for mmengine and mmdet that are missing or no list of dictionaries."""
    faults = [f"{key}: missing" for key in _REQUIRED_LISTS if key not in config]
    for key in _LISTS_OF_PARTS:
        value = config.get(key, [])
        if not isinstance(value, Sequence) or not all(isinstance(part, Mapping) for part in value):
            faults.append(
                f'{key}: {value!r} given, a list of dictionaries expected, such as [{{"type": ...}}] '
                "(dict(type=...) only within a config file)"
            )
    return faults
