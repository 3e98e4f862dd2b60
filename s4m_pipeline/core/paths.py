"""Where files are: the shipped configs, and the names of folders and files in the folder of an experiment."""

import os
from pathlib import Path

from s4m_pipeline.core.errors import UserError

_IN_WHEEL = Path(__file__).parents[1] / "configs"
CONFIGS = _IN_WHEEL if _IN_WHEEL.is_dir() else Path(__file__).parents[2] / "configs"
"""The shipped configs: in the package of an installed wheel, beside it in a clone."""

EXPERIMENTS = Path("experiments")
"""Where `s4m init` writes configs."""

TEACHER = "teacher"
STUDENT = "student"
CONTROL = "control"
"""The student's training without unlabeled images."""
CACHE = "cache"
CACHE_PLACE = "cache.json"
"""Where the cache is, if it is not that folder."""
JOBS = "jobs"
"""What `s4m refine --launcher slurm` submitted, and its output."""
EVALUATION = "evaluation.json"
"""Results by split and stage, each as `s4m evaluate --json` prints it."""
MATCHES = "evaluation"
"""Folder with the matches of each result, which intervals are computed from."""
VERDICT = "verdict.json"
BEST = "best.safetensors"
BEST_RECORD = "best.json"
REPORT = "report.html"
SUGGESTED = "suggested.txt"
"""Names of the images to label next."""
SUGGESTED_SHEET = "suggested.png"
PREDICTIONS = "predictions.json"
"""In a folder of `s4m predict`, as the next one: COCO results."""
PREDICTED_IMAGES = "images.json"
"""Their images and categories, as a COCO file without annotations."""

RUN = "run.json"
"""In the folder of a training, as those below."""
METRICS = "metrics.jsonl"
IMAGE_FILES = "image_files.json"
"""In the folder of a generation one for each shard: `image_files-0001.json`."""
WEIGHTS = "weights.safetensors"
BEST_SO_FAR = "best_weights.safetensors"
"""Those of the best validation so far, of a training that keeps them."""
GENERATIONS = "generations.jsonl"
"""The student's alone."""


def find_config(config: Path) -> Path:
    """The file of a config that is given by its path, or by its name: one of `experiments/`, or shipped.

    Raises:
        UserError: if there is none, or several of this name.
    """
    if config.is_file():
        return config
    shipped = {path.stem: path for path in CONFIGS.glob("[!_]*/*.py")}
    own = {path.stem: path for path in EXPERIMENTS.glob("*.py")}
    found = [configs[str(config)] for configs in (own, shipped) if str(config) in configs]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(
            f"Two configs have the name {config}: {found[0]} and {found[1]}. Give the path of one."
        )
    raise UserError(
        f"No config file at {config}, and no config of this name.\nExpected the path of a Python config, or "
        f"one of: {', '.join([*sorted(own), *sorted(shipped)])}. `s4m init` writes one for your own images."
    )


def experiment_folder(config: Path, work_dir: Path | None = None) -> Path:
    """The folder of all stages of an experiment: `work_dirs/<config name>` unless given."""
    return work_dir or Path("work_dirs") / config.stem


def experiment_of(weights: Path) -> Path | None:
    """The experiment whose best weights, or a training's weights, these are by their place; None: of none."""
    folder = weights.absolute().parent
    if weights.name == BEST and (folder / BEST_RECORD).is_file():
        return folder
    return folder.parent if (folder / RUN).is_file() else None


def torch_checkpoints() -> Path:
    """Where torch keeps downloaded weights (`torch.hub.get_dir`, without importing torch)."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("TORCH_HOME", f"{cache}/torch")).expanduser() / "hub" / "checkpoints"
