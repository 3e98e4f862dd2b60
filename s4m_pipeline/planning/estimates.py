"""What an experiment will take: time, where iterations were timed before, and disk."""

from collections.abc import Mapping
from typing import Any

from s4m_cache.limits import LABEL_BYTES
from s4m_pipeline.config.experiment import Options
from s4m_pipeline.config.groups import TrainOptions
from s4m_pipeline.core.paths import CONTROL, STUDENT, TEACHER
from s4m_pipeline.experiment.metrics import read_metrics
from s4m_pipeline.planning.plan import Experiment, Plan

GB = 10**9
EMBEDDING_BYTES = 8 * 2**20


def time_left(experiment: Experiment, plan: Plan) -> str:
    """How long a planned training will take, as text; empty for what is no training or has nothing to do."""
    student = experiment.options.student
    training = {TEACHER: experiment.options.teacher, STUDENT: student, CONTROL: student}.get(plan.stage)
    if plan.arguments is None or training is None:
        return ""
    speeds = [
        record["seconds_per_step"]
        for record in read_metrics(experiment.folder / plan.stage)
        if "seconds_per_step" in record
    ]
    if not speeds:
        return f"; {training.iterations} iterations, time unknown before the first ones"
    seconds = (training.iterations - plan.start_step) * speeds[-1]
    return f"; about {seconds / 60:.0f} minutes at the speed measured before"


def disk_bytes(options: Options, config: Mapping[str, Any], num_unlabeled: int) -> int:
    """What the experiment will write: checkpoints of each training, generations of labels, embeddings.

    A checkpoint holds 20 bytes for each weight (itself, its EMA, AdamW's moments, and a margin); the number
    of weights is estimated by the backbone: 44 million with a ResNet-50, a million in the demo's.
    """
    weights = 1_000_000 if config["model"]["backbone"].get("base_channels", 64) < 64 else 44_000_000
    trainings: list[TrainOptions] = [t for t in (options.teacher, options.student) if t]
    checkpoints = sum(20 * weights * (training.keep_checkpoints + 2) for training in trainings)
    generations = options.student.keep_generations if options.student else 1
    labels = num_unlabeled * LABEL_BYTES * generations
    embeddings = num_unlabeled * EMBEDDING_BYTES if options.cache.embeddings else 0
    return checkpoints + labels + min(embeddings, int(options.cache.embeddings_gb * GB))
