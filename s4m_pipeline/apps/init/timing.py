"""How long iterations of the small network and a SAM 2 take on this machine."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from mmengine.logging import MMLogger
from mmengine.model import ExponentialMovingAverage
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner

from s4m_pipeline.apps.init.fitting import Facts, Fit
from s4m_pipeline.apps.init.small import TINY, IterationSeconds, SamSeconds, fit_cpu
from s4m_pipeline.config.experiment import load_experiment
from s4m_pipeline.config.groups import SamOptions
from s4m_pipeline.config.sam_files import NANO, OFFICIAL, find_sam, local_weights
from s4m_pipeline.data.coco import CocoData
from s4m_pipeline.data.loaders import coco_dataset, train_dataloader
from s4m_pipeline.models.registry import register_all
from s4m_pipeline.sam import BatchedSam, Prompts, build_sam
from s4m_pipeline.student.build import student_dataloader, student_model, teacher_model
from s4m_pipeline.train.runner import optim_wrapper

_ITERATIONS = 3
_PROMPTS = 4
"""A chunk of the decoder on a CPU."""


def fit_here(
    facts: Facts, minutes: float, sam: str | None, labeled: CocoData, config_of: Callable[[Fit], str]
) -> Fit:
    """`fit_cpu` with the times of this machine; takes seconds to a minute.

    Args:
        sam: the SAM 2 to take; None: the smallest official one if its weights are here and it is fast enough,
            else the nano.
        labeled: the labeled images.
        config_of: the text of the config file with some sizes.
    """
    usual = [TINY, NANO] if local_weights(TINY, SamOptions().weights_dir) else [NANO]
    sams = [time_sam(name) for name in ([sam] if sam else usual)]
    return fit_cpu(facts, minutes, sams, lambda sizes: time_iterations(config_of(sizes), labeled))


def time_iterations(config_text: str, labeled: CocoData) -> IterationSeconds:
    """Train both networks for a few iterations, from random weights and without writing anything.

    The student's unlabeled images are labeled ones, as in the control: they take the same time.

    Args:
        config_text: the experiment's config file.
        labeled: its labeled images.
    """
    register_all()
    MMLogger.get_current_instance().setLevel("WARNING")  # else mmengine lists every parameter
    with TemporaryDirectory() as folder:
        path = Path(folder, "timed.py")
        path.write_text(config_text)
        options, config = load_experiment(path, [])
    teacher, student, classes = options.teacher, options.require_student(), len(labeled.categories)
    images = coco_dataset(labeled.json_path, labeled.images_root, config["train_pipeline"])
    batches = train_dataloader(images, batch_size=teacher.batch_size, workers=0, seed=0)
    both = student_dataloader(
        student, config, labeled, None, (student.batch_size, student.unlabeled_batch_size)
    )
    return IterationSeconds(
        teacher=_time_training(teacher_model(options, config, classes), batches, config["optim_wrapper"]),
        student=_time_training(student_model(student, config, classes), both, config["optim_wrapper"]),
    )


def _time_training(
    model_settings: Mapping[str, Any], loader_settings: dict[str, Any], optimizer: Mapping[str, Any]
) -> float:
    """Median seconds of an iteration, the first one left out."""
    from mmdet.registry import MODELS

    model = MODELS.build(model_settings).train()
    optim = build_optim_wrapper(model, optim_wrapper(optimizer, "fp32"))
    average = ExponentialMovingAverage(model)
    batches = iter(Runner.build_dataloader(loader_settings))
    seconds = []
    for _ in range(_ITERATIONS):
        began = time.perf_counter()
        model.train_step(next(batches), optim)
        average.update_parameters(model)
        seconds.append(time.perf_counter() - began)
    return median(seconds[1:])


def time_sam(name: str) -> SamSeconds:
    """Embed an image and decode a few prompts, with random weights: nothing is downloaded."""
    config = name if name in OFFICIAL else find_sam(name, None, SamOptions().weights_dir)[0]
    sam = BatchedSam(build_sam(config))
    image = torch.zeros(3, 1024, 1024, dtype=torch.uint8)
    began = time.perf_counter()
    embeddings = sam.encode([image])
    encoded = time.perf_counter()
    prompts = Prompts(points_xy_px=torch.full((_PROMPTS, 3, 2), 512.0))
    sam.decode(embeddings, torch.zeros(_PROMPTS, dtype=torch.int64), prompts)
    decoded = time.perf_counter()
    return SamSeconds(name=name, encode=encoded - began, decode=(decoded - encoded) / _PROMPTS)
