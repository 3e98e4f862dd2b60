"""One training step of the student: labels from the cache, labels made within the step, and supervised.

    s4m bench student-step

"Online" is the form of public code: the teacher and SAM 2 in fp32 on one unlabeled image after the other,
inside the step; ARP and strong augmentation follow as in ours. "Supervised" learns from as many labeled
images with the plain network. The three take turns in one run, loading their images in the training process.
On a CPU: the demo's config and network and the nano SAM 2, in processor seconds of one thread. On a GPU: the
paper's Cityscapes config, network and SAM 2.1 Hiera-L with random weights, on scenes that the pipeline
enlarges, in seconds by the clock. Random weights find something everywhere: on the CPU, the score threshold
leaves about as many pseudo-labels as there are objects.
"""

import shutil
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.logging import MMLogger
from mmengine.model import ExponentialMovingAverage
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner
from rich.table import Table

from s4m_cache.reader import CacheReader
from s4m_cache.sharding import ShardSpec
from s4m_pipeline.apps.bench.refine import Networks, build_networks, label_publicly
from s4m_pipeline.apps.bench.timing import choose_device, device_name, now, show
from s4m_pipeline.config.experiment import Options, load_experiment
from s4m_pipeline.config.groups import Recipe
from s4m_pipeline.config.student import StudentOptions
from s4m_pipeline.core.paths import CONFIGS
from s4m_pipeline.data.coco import CocoData
from s4m_pipeline.data.labeled import load_labeled
from s4m_pipeline.data.loaders import coco_dataset, train_dataloader
from s4m_pipeline.data.scenes.shapes import DEMO_FAMILIES
from s4m_pipeline.data.scenes.writer import Subset, write_scenes
from s4m_pipeline.models.checkpoint import write_weights
from s4m_pipeline.models.load import model_config
from s4m_pipeline.models.registry import register_all
from s4m_pipeline.refine.generation import begin_generation, label_shards
from s4m_pipeline.refine.images import Photo
from s4m_pipeline.refine.inputs import load_inputs
from s4m_pipeline.refine.publish import publish_if_complete
from s4m_pipeline.sam import LoadedSam
from s4m_pipeline.student.build import student_dataloader, student_model, two_branch_dataloader
from s4m_pipeline.student.labels import Labels, load_labels
from s4m_pipeline.train.runner import optim_wrapper

CONFIG = {"cpu": CONFIGS / "demo/demo.py", "cuda": CONFIGS / "cityscapes/cityscapes.py"}
SUBSETS = (Subset("labeled", 0, 32), Subset("train", 2, 32), Subset("val", 1, 4))
OURS, ONLINE, SUPERVISED = "labels from the cache", "labels made online", "supervised"
PARTS = ("data", "labels", "augmentation", "forward", "backward", "update")


class Study(NamedTuple):
    """An experiment on drawn scenes, whose unlabeled images have labels in a cache."""

    options: Options
    student: StudentOptions
    config: dict[str, Any]
    train: CocoData
    labels: Labels
    networks: Networks
    """What the labels were made with."""


@dataclass
class Step:
    """A training, a step at a time.

    Attributes:
        seconds: of each part of every step so far.
    """

    model: Any
    optim: Any
    average: ExponentialMovingAverage
    loader: Any
    device: torch.device
    label: Callable[[dict[str, Any]], None]

    def __post_init__(self) -> None:
        self.seconds: defaultdict[str, list[float]] = defaultdict(list)

    @cached_property
    def batches(self) -> Iterator[dict[str, Any]]:
        """What the loader gives, endlessly."""
        return iter(self.loader)

    def run(self) -> None:
        """Load a batch and learn from it."""
        with self._measure("data"):
            batch = next(self.batches)
        with self._measure("labels"):
            self.label(batch)
        with self.optim.optim_context(self.model):
            with self._measure("augmentation"):
                data = self.model.data_preprocessor(batch, True)
            with self._measure("forward"):
                loss, _ = self.model.parse_losses(self.model(**data, mode="loss"))
        with self._measure("backward"):
            self.optim.backward(loss)
        with self._measure("update"):
            self.optim.step()
            self.optim.zero_grad()
            self.average.update_parameters(self.model)

    @contextmanager
    def _measure(self, part: str) -> Any:
        began = now(self.device)
        yield
        self.seconds[part].append(now(self.device) - began)


def main(rounds: int = 5) -> None:
    """Print seconds of each part of a step, as medians of `rounds`, and ratios."""
    register_all()
    MMLogger.get_instance(__name__, log_level="WARNING")  # mmengine lists every parameter else
    device = choose_device()
    with tempfile.TemporaryDirectory() as folder:
        study = make_study(Path(folder), device)
        steps = {
            OURS: ours(study, device),
            ONLINE: online(study, device),
            SUPERVISED: supervised(study, device),
        }
        for turn in range(rounds + 1):
            for step in steps.values():
                step.run()
                if not turn:  # it warms up
                    step.seconds.clear()
        _print({name: step.seconds for name, step in steps.items()}, study, device)


def make_study(folder: Path, device: torch.device) -> Study:
    """Draw scenes, and label the unlabeled ones as `s4m refine` does."""
    data = folder / "data"
    write_scenes(data, SUBSETS, DEMO_FAMILIES, (4, 99))
    shutil.copytree(data / "labeled", data / "train", dirs_exist_ok=True)
    places = {"root": data, "labeled": "labeled.json", "train_images": "train", "unlabeled": "train.json"}
    places |= {"val": "val.json", "val_images": "val"}
    settings = {"min_score": 0.34, "nms_iou": None, "workers": 0, "ground_truth": None}
    overrides = [f"data.{key}={value}" for key, value in places.items()]
    overrides += [f"refine.{key}={value}" for key, value in settings.items()]
    options, config = load_experiment(CONFIG[device.type], [*overrides, "student.workers=0"])
    train, _ = load_labeled(options.data)

    networks = build_networks(device)
    weights = folder / "teacher.safetensors"
    write_weights(weights, networks.teacher.state_dict(), tuple(train.class_names))
    sam = LoadedSam(network=networks.sam.network, model="random", weights_sha256="", config_sha256="")
    inputs = load_inputs(options, config, weights, sam=sam)
    generation = begin_generation(inputs, folder / "cache", None, 1)
    label_shards(inputs, generation, ShardSpec(1, 1), stop=lambda: False)
    publish_if_complete(inputs, generation)
    labels = load_labels(options.data, folder / "cache", None, train)
    return Study(options, options.require_student(), config, train, labels, networks)


def ours(study: Study, device: torch.device) -> Step:
    """The student with labels of the cache."""
    student, config, train = study.student, study.config, study.train
    loader = student_dataloader(student, config, train, study.labels, _batch_sizes(student))
    step = _step(study, student_model(student, config, len(train.categories)), loader, device)
    step.loader.sampler.generation = study.labels.generation.number
    return step


def online(study: Study, device: torch.device) -> Step:
    """The same student; its batches come without labels on unlabeled images."""
    student, config, train = study.student, study.config, study.train
    unlabeled = study.labels.unlabeled
    without = [
        transform
        for transform in config["train_pipeline"]
        if transform["type"] not in ("LoadInstances", "FilterAnnotations")
    ]
    loader = two_branch_dataloader(
        coco_dataset(train.json_path, train.images_root, config["train_pipeline"]),
        coco_dataset(unlabeled.source, unlabeled.images_root, without),
        batch_sizes=_batch_sizes(student),
        workers=0,
        seed=student.seed,
    )
    loader["collate_fn"] = {"type": "pseudo_collate"}  # the project's own wants labels
    model = student_model(student, config, len(train.categories))
    recipe = study.options.refine
    return _step(study, model, loader, device, lambda batch: _label_online(study.networks, recipe, batch))


def supervised(study: Study, device: torch.device) -> Step:
    """The plain network on labeled images, as many as the student has of both kinds."""
    student, config, train = study.student, study.config, study.train
    loader = train_dataloader(
        coco_dataset(train.json_path, train.images_root, config["train_pipeline"]),
        batch_size=sum(_batch_sizes(student)),
        workers=0,
        seed=student.seed,
    )
    return _step(study, model_config(config["model"], len(train.categories)), loader, device)


def _step(
    study: Study,
    model_settings: dict[str, Any],
    loader_settings: dict[str, Any],
    device: torch.device,
    label: Callable[[dict[str, Any]], None] = lambda batch: None,
) -> Step:
    from mmdet.registry import MODELS

    torch.manual_seed(0)
    model = MODELS.build(model_settings).to(device).train()
    optim = build_optim_wrapper(model, optim_wrapper(study.config["optim_wrapper"], study.student.precision))
    average = ExponentialMovingAverage(model, momentum=0.01)
    return Step(model, optim, average, Runner.build_dataloader(loader_settings), device, label)


def _batch_sizes(student: StudentOptions) -> tuple[int, int]:
    return student.batch_size, student.unlabeled_batch_size


def _label_online(networks: Networks, recipe: Recipe, batch: dict[str, Any]) -> None:
    """Pseudo-labels of the batch's unlabeled images, one image at a time."""
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    from s4m_pipeline.models.student import UNLABELED

    for pixels, sample in zip(batch["inputs"], batch["data_samples"], strict=True):
        if sample.metainfo["branch"] == UNLABELED:
            kept, masks = label_publicly(networks, Photo(sample.img_id, pixels, pixels), recipe)
            height, width = pixels.shape[1:]
            sample.gt_instances = InstanceData(
                labels=kept.label.clone().cpu(),  # no longer a tensor of inference mode
                masks=BitmapMasks(masks.astype(np.uint8), height, width),
            )


def _print(seconds: dict[str, dict[str, list[float]]], study: Study, device: torch.device) -> None:
    medians = {
        form: {part: statistics.median(parts[part]) for part in PARTS} for form, parts in seconds.items()
    }
    with CacheReader(study.labels.generation) as reader:
        instances = sum(len(reader.read(id_).instances) for id_ in reader.image_ids.tolist()) / len(reader)
    objects = sum(len(study.train.instances(image.id)) for image in study.train.images) / SUBSETS[0].size
    labeled, unlabeled = _batch_sizes(study.student)
    title = (
        f"{CONFIG[device.type].stem}, {labeled} labeled + {unlabeled} unlabeled images, {objects:.1f} "
        f"objects and {instances:.1f} pseudo-labels an image, {device_name(device)}; seconds"
    )
    table = Table("step", *PARTS, "without data", "of supervised", "all", "of supervised", title=title)
    sums = {form: sum(parts.values()) for form, parts in medians.items()}
    steps = {form: sums[form] - medians[form]["data"] for form in medians}
    for form, parts in medians.items():
        table.add_row(
            form,
            *(f"{parts[part]:.3f}" for part in PARTS),
            f"{steps[form]:.3f}",
            f"{steps[form] / steps[SUPERVISED]:.2f}",
            f"{sums[form]:.3f}",
            f"{sums[form] / sums[SUPERVISED]:.2f}",
        )
    show(table)
    largest = max(PARTS, key=medians[OURS].__getitem__)
    show(
        f"Against online: {steps[ONLINE] / steps[OURS]:.2f} times as fast without data, "
        f"{sums[ONLINE] / sums[OURS]:.2f} with. Our largest part: {largest}, "
        f"{medians[OURS][largest] / sums[OURS]:.0%}."
    )
