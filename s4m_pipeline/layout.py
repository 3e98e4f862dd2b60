"""Where files are: the shipped configs, and the names of folders and files in the folder of an experiment."""

from pathlib import Path

CONFIGS = Path(__file__).parents[1] / "configs"
"""The shipped configs: beside the package, in a clone as in an installed wheel."""

TEACHER = "teacher"
STUDENT = "student"
CACHE = "cache"
EVALUATION = "evaluation.json"
"""Results by split and stage, each as `s4m evaluate --json` prints it."""
REPORT = "report.html"

RUN = "run.json"
"""In the folder of a training, as those below."""
METRICS = "metrics.jsonl"
WEIGHTS = "weights.safetensors"
GENERATIONS = "generations.jsonl"
"""The student's alone."""


def experiment_folder(config: Path, work_dir: Path | None = None) -> Path:
    """The folder of all stages of an experiment: `work_dirs/<config name>` unless given."""
    return work_dir or Path("work_dirs") / config.stem
