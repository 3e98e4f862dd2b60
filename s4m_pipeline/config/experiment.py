"""An experiment: one config file with all its groups of settings."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from s4m_pipeline.config.base import Settings, describe_faults, unknown_key
from s4m_pipeline.config.groups import (
    CacheOptions,
    DataOptions,
    RefineOptions,
    SamOptions,
    SdOptions,
    TeacherOptions,
    TileOptions,
)
from s4m_pipeline.config.student import StudentOptions
from s4m_pipeline.core.errors import UserError

_DEPTH_MEAN, _DEPTH_STD = 127.5, 64.0
"""Of a depth map as the network sees it, scaled to 0..255."""
_DEPTH_WIDTH = 32
"""Channels of the features of a depth map."""


class Options(Settings):
    """All of our keys of one config."""

    data: DataOptions
    """The data set."""
    teacher: TeacherOptions
    """Training of the teacher."""
    sam: SamOptions
    """SAM 2."""
    sd: SdOptions
    """Structural distillation."""
    refine: RefineOptions
    """Pseudo-labels and their refinement."""
    cache: CacheOptions
    """Storage of the pseudo-labels."""
    tiles: TileOptions
    """How large images are cut."""
    student: StudentOptions | None
    """Training of the student; a config without it ends with the pseudo-labels."""

    @property
    def control(self) -> "Options":
        """The same experiment, whose student is trained without unlabeled images."""
        return self.model_copy(update={"student": self.require_student().control})

    def require_student(self) -> StudentOptions:
        """The group `student`.

        Raises:
            UserError: if the config has none.
        """
        if self.student is None:
            raise UserError(
                "The config has no group `student`.\nAdd one; `s4m config demo` shows an example, and "
                "explains its keys."
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
"""Top-level keys whose content belongs to mmengine or mmdet; every other key must be a field of `Options`."""

_LISTS_OF_DICTS = ("param_scheduler", "train_pipeline", "test_pipeline", "custom_hooks")
_REQUIRED_LISTS = ("train_pipeline", "test_pipeline")
_REQUIRED_DICTS: dict[str, Any] = {
    "model": {"backbone": {}, "panoptic_head": {"loss_cls": {}}, "panoptic_fusion_head": {}},
    "optim_wrapper": {},
}
"""Required dictionaries, and those within them that the program completes."""

_TRAINING_KEYS = (
    "accumulate",
    "workers",
    "validate_every",
    "checkpoint_every",
    "keep_checkpoints",
    "log_every",
    "logger",
    "tensorboard",  # the name of `logger` in earlier records
    "rank_timeout_s",
)
FREE_TO_CHANGE = frozenset(
    {f"{group}.{name}" for group in ("teacher", "student") for name in _TRAINING_KEYS}
    | {f"data.{name}" for name in ("root", "labeled", "unlabeled", "val", "test", "test_images")}
    | {f"sam.{name}" for name in ("weights_dir", "encoder_batch", "decoder_chunk")}
    | {f"refine.{name}" for name in ("batch_size", "workers", "max_unreadable", "ground_truth")}
    | {"student.keep_generations"}
)
"""Settings that do not change what is learned: an interrupted run may resume with different ones.

Of files, the content is compared instead.
"""


def load_experiment(path: str | Path, overrides: Sequence[str]) -> tuple[Options, dict[str, Any]]:
    """Read a config file with `--set` overrides on top.

    Returns:
        Our options, checked, and the whole config as plain values. Tiles are part of the network's
        `test_cfg`: it cuts images wherever it predicts, and whatever depends on the model depends on them.
        So are depth maps part of the network and the pipelines.

    Raises:
        UserError: one message with all faults.
    """
    from s4m_pipeline.config.loading import load_config  # mmengine is slow to import; --help does not need it

    config, faults = load_config(path, overrides, list(Options.model_fields))
    options = parse_options(config, faults)
    if tiles := options.tiles.of_network:
        config["model"]["test_cfg"] = {**config["model"].get("test_cfg", {}), "tiles": tiles}
    if options.data.depth is not None:
        _use_depth(config, options.data.depth)
    return options, config


def settings_of(options: Options, config: Mapping[str, Any], *groups: str) -> dict[str, Any]:
    """What a stage depends on, as plain values: the keys of mmengine and mmdet, and some of our groups."""
    ours = options.model_dump()
    return {key: config[key] for key in RUNNER_KEYS if key in config} | {name: ours[name] for name in groups}


def parse_options(config: Mapping[str, Any], earlier_faults: Sequence[str] = ()) -> Options:
    """Turn a config's keys into checked options.

    Args:
        config: the whole config; keys of `RUNNER_KEYS` are not parsed.
        earlier_faults: faults found while reading the config, to be reported together with these.

    Raises:
        UserError: one message with all faults; unknown keys are answered with the nearest known one.
    """
    faults = list(earlier_faults)
    known = [*Options.model_fields, *RUNNER_KEYS]
    faults += [unknown_key(key, known) for key in config if key not in known]
    faults += _dict_faults(config, _REQUIRED_DICTS)
    faults += _list_faults(config)
    groups = {name: config.get(name, {}) for name in Options.model_fields}
    try:
        options = Options.model_validate({**groups, "student": config.get("student")})
    except ValidationError as error:
        faults += describe_faults(error, Options)
    if faults:
        raise UserError("The config has {} fault(s):\n  {}".format(len(faults), "\n  ".join(faults)))
    return options


def _dict_faults(config: Mapping[str, Any], required: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dictionaries for mmengine and mmdet that are missing or of another type."""
    faults = []
    for key, within in required.items():
        if key not in config:
            faults.append(f"{prefix}{key}: missing")
        elif not isinstance(config[key], Mapping):
            faults.append(f"{prefix}{key}: {config[key]!r} given, a dictionary expected")
        else:
            faults += _dict_faults(config[key], within, f"{prefix}{key}.")
    return faults


def _list_faults(config: Mapping[str, Any]) -> list[str]:
    """Lists of dictionaries for mmengine and mmdet that are missing or of another type."""
    faults = [f"{key}: missing" for key in _REQUIRED_LISTS if key not in config]
    for key in _LISTS_OF_DICTS:
        value = config.get(key, [])
        if not isinstance(value, Sequence) or not all(isinstance(item, Mapping) for item in value):
            faults.append(
                f'{key}: {value!r} given, a list of dictionaries expected, such as [{{"type": ...}}] '
                "(dict(type=...) only within a config file)"
            )
    return faults


def _use_depth(config: dict[str, Any], folder: str) -> None:
    """Change a whole config, as plain values, so that each image has its depth map as a fourth channel.

    Args:
        folder: `data.depth`.
    """
    for name in ("train_pipeline", "test_pipeline"):
        loads, rest = [], list(config[name])
        while rest and str(rest[0].get("type")).startswith("Load"):
            loads.append(rest.pop(0))
        pack = rest[-1:]
        config[name] = [
            *loads,
            {"type": "LoadDepth", "folder": folder},
            *rest[:-1],
            {"type": "StackDepth"},
            *pack,
        ]
    preprocessor = config["model"]["data_preprocessor"]
    config["model"] = {
        **config["model"],
        "depth_width": _DEPTH_WIDTH,
        "data_preprocessor": {
            **preprocessor,
            "type": "ChannelsPreprocessor",
            "mean": [*preprocessor["mean"], _DEPTH_MEAN],
            "std": [*preprocessor["std"], _DEPTH_STD],
        },
    }
