"""What an experiment will take: time, where iterations were timed before, and disk."""

import json
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from s4m_cache.limits import LABEL_BYTES
from s4m_pipeline.config.experiment import Options
from s4m_pipeline.config.groups import DataOptions, TrainOptions
from s4m_pipeline.core.paths import CONTROL, STUDENT, TEACHER
from s4m_pipeline.experiment.metrics import read_metrics
from s4m_pipeline.planning.plan import Experiment, Plan

GB = 10**9
EMBEDDING_BYTES = 8 * 2**20
LARGEST_READ_BYTES = 200_000_000
"""Larger JSON files are not read for an estimate, which would take too long."""
REFINE = "refine"


def time_left(experiment: Experiment, plan: Plan) -> str:
    """How long a planned training will take, as text; empty for what is no training or has nothing to do."""
    student = experiment.options.student
    training = {TEACHER: experiment.options.teacher, STUDENT: student, CONTROL: student}.get(plan.stage)
    if plan.arguments is None or training is None:
        return ""
    step_s = median_metric(read_metrics(experiment.folder / plan.stage), "seconds_per_step")
    if step_s is None:
        return f"; {training.iterations} iterations, time unknown before the first ones"
    seconds = (training.iterations - plan.start_step) * step_s
    return f"; about {seconds / 60:.0f} minutes at the speed measured before"


def median_metric(records: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """The median of a value in the records of metrics.jsonl; None where it does not occur."""
    found = [record[name] for record in records if name in record]
    return median(found) if found else None


def disk_bytes(options: Options, config: Mapping[str, Any], num_unlabeled: int) -> int:
    """What the experiment will write: `stage_bytes` of all stages."""
    return sum(stage_bytes(options, config, num_unlabeled).values())


def stage_bytes(
    options: Options, config: Mapping[str, Any], num_unlabeled: int, label_bytes: float = LABEL_BYTES
) -> dict[str, int]:
    """What each stage will write: checkpoints of a training, generations of labels, embeddings.

    A checkpoint holds 20 bytes for each weight (itself, its EMA, AdamW's moments, and a margin); the number
    of weights is estimated by the backbone: 44 million with a ResNet-50, a million in the demo's.

    Args:
        label_bytes: of one image in one generation.
    """
    weights = 1_000_000 if is_small(config) else 44_000_000

    def checkpoints(training: TrainOptions) -> int:
        return 20 * weights * (training.keep_checkpoints + 2)

    generation = int(num_unlabeled * label_bytes)
    embeddings = num_unlabeled * EMBEDDING_BYTES if options.cache.embeddings else 0
    taken = {
        TEACHER: checkpoints(options.teacher),
        REFINE: generation + min(embeddings, int(options.cache.embeddings_gb * GB)),
    }
    if (student := options.student) is not None:
        taken[STUDENT] = checkpoints(student) + (student.keep_generations - 1) * generation
    return taken


def is_small(config: Mapping[str, Any]) -> bool:
    """Whether the network is the demo's."""
    return config["model"]["backbone"].get("base_channels", 64) < 64


def count_unlabeled(data: DataOptions) -> int:
    """Number of unlabeled images, 0 if there are none; a JSON too large to read is counted by its size."""
    source = data.path(data.unlabeled) if data.unlabeled else None
    if source is None or not source.exists():
        return 0
    if source.is_dir():
        return sum(1 for path in source.rglob("*") if path.is_file())
    if source.stat().st_size > LARGEST_READ_BYTES:
        return source.stat().st_size // 100  # bytes of an image's entry at least
    try:
        return len(json.loads(source.read_bytes())["images"])
    except (ValueError, KeyError, TypeError):  # `s4m doctor` reports it
        return 0


def training_pixels(pipeline: Sequence[Mapping[str, Any]]) -> int:
    """Pixels of a training image: of the crop, else of the largest scale, else a megapixel."""
    sizes = [step["crop_size"] for step in pipeline if "crop_size" in step]
    sizes = sizes or [step["scale"] for step in pipeline if "scale" in step]
    return max((height * width for height, width in sizes), default=1024 * 1024)
