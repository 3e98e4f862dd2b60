"""Checks of one experiment: config, data, weights, and the disk space and shared memory it will need."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from s4m_cache.errors import CacheError
from s4m_cache.generations import generations
from s4m_cache.storage import is_remote
from s4m_pipeline.apps.doctor.finding import Finding, first_line, pasted
from s4m_pipeline.config.experiment import Options, load_experiment
from s4m_pipeline.config.sam_files import OFFICIAL, local_weights
from s4m_pipeline.config.student import OWN_TEACHER
from s4m_pipeline.config.weight_files import TORCHVISION, fetch_command, is_published, weights_here
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.core.locations import cache_location
from s4m_pipeline.core.paths import torch_checkpoints
from s4m_pipeline.planning import estimates

_PREFETCHED = 2
"""Batches that each loader process keeps ready, torch's default."""


@dataclass(frozen=True)
class CheckedConfig:
    """A config that could be read."""

    path: Path
    options: Options
    config: dict[str, Any]


def check_config(path: Path, overrides: Sequence[str]) -> tuple[list[Finding], CheckedConfig | None]:
    """Read the config; without it nothing else of the experiment can be checked."""
    try:
        options, config = load_experiment(path, overrides)
    except UserError as error:
        text = "; ".join(line.strip() for line in str(error).splitlines())
        return [Finding("config", "fix", text, f"${{EDITOR:-vi}} {pasted(path)}")], None
    return [Finding("config", "ok", str(path))], CheckedConfig(path, options, config)


def check_data(experiment: CheckedConfig) -> Iterator[Finding]:
    """The data set's folders and JSON files exist, and the images are where the JSON files say."""
    data = experiment.options.data
    root = data.path("")
    if not root.is_dir():
        text = f"data.root: no folder {root if is_remote(root) else root.absolute()}"
        yield Finding(
            "data", "fix", text, f"s4m doctor {pasted(experiment.path)} --set data.root=/where/it/is"
        )
        return
    sets = [("labeled", data.labeled, data.train_images), ("val", data.val, data.val_images)]
    sets += [(n, a, i) for n, a, i in (("test", data.test, data.test_images),) if a and i]
    sets += [("unlabeled", data.unlabeled, data.train_images)] if data.unlabeled else []
    for name, annotations, images in sets:
        yield _check_set(f"data.{name}", data.path(annotations), data.path(images))
    if data.unlabeled is None:
        text = "data.unlabeled is not set: the experiment ends with the teacher"
        command = (
            f"s4m data split {pasted(data.path(data.labeled))} --percent 10 --out {pasted(root / 'split')}"
        )
        yield Finding("data.unlabeled", "warn", text, command)


def check_cache(experiment: CheckedConfig) -> Iterator[Finding]:
    """The labels can be read, if they are not in the experiment's folder."""
    root = experiment.options.cache.root
    if root is None:
        return
    try:
        yield Finding("cache.root", "ok", f"{root}: {len(generations(cache_location(root)))} generations")
    except (CacheError, UserError) as error:
        without = f"s4m doctor {pasted(experiment.path)} --set cache.root=None"
        yield Finding("cache.root", "fix", " ".join(str(error).split()), without)


def _check_set(name: str, source: Path, images: Path) -> Finding:
    if name == "data.unlabeled" and source.is_dir():
        return Finding(name, "ok", f"folder {source}")
    if not source.is_file():
        made_by_split = name in ("data.labeled", "data.unlabeled")
        command = (
            f"s4m data split ALL.json --percent 10 --out {pasted(source.parent)}"
            if made_by_split
            else f"ls {pasted(source.parent)}"
        )
        return Finding(name, "fix", f"no file {source}", command)
    if not images.is_dir():
        return Finding(name, "fix", f"no image folder {images}", f"ls {pasted(images.parent)}")
    if source.stat().st_size > estimates.LARGEST_READ_BYTES:
        return Finding(name, "ok", f"{source} (not read: large)")
    check = f"s4m data check {pasted(source)} --images {pasted(images)}"
    try:
        listed = [entry["file_name"] for entry in json.loads(source.read_bytes())["images"]]
    except (ValueError, KeyError, TypeError) as error:
        return Finding(
            name, "fix", f"{source} is no COCO JSON ({type(error).__name__}: {first_line(error)})", check
        )
    absent = [file_name for file_name in listed[:100] if not (images / str(file_name)).is_file()]
    if absent:
        others = f"{len(absent) - 1} more of the first 100"
        text = f"{source}: images that are not in {images}: {absent[0]} and {others}"
        return Finding(name, "fix", text, check)
    return Finding(name, "ok", f"{source}: {len(listed)} images")


def check_sam(experiment: CheckedConfig) -> Iterator[Finding]:
    """SAM 2's weights are on this machine, or will be downloaded."""
    options = experiment.options
    sam, student = options.sam, options.student
    distilled = options.sd.enabled or (student is not None and student.distill)
    if options.refine.prompt is None and not distilled:
        yield Finding("SAM 2 weights", "ok", "not used by this config")
    elif sam.model == "nano":
        yield Finding("SAM 2 weights", "ok", "nano, which is shipped")
    elif sam.model.endswith((".pt", ".safetensors")):
        if Path(sam.model).is_file():
            yield Finding("SAM 2 weights", "ok", sam.model)
        else:
            text = f"sam.model: no file {sam.model}"
            yield Finding(
                "SAM 2 weights", "fix", text, f"s4m doctor {pasted(experiment.path)} --set sam.model=nano"
            )
    else:
        yield _check_hub(sam.model, Path(sam.weights_dir))


def _check_hub(model: str, weights_dir: Path) -> Finding:
    name = "SAM 2 weights"
    if model not in OFFICIAL:
        text = f"sam.model: unknown name {model!r}; known: nano, {', '.join(OFFICIAL)}"
        return Finding(name, "fix", text, "s4m doctor CONFIG --set sam.model=nano")
    if found := local_weights(model, weights_dir):
        return Finding(name, "ok", str(found))
    file_name = OFFICIAL[model][1]
    text = f"{file_name} is not in {weights_dir.absolute()} nor in the hub cache: downloaded at first use"
    return Finding(name, "warn", text, f"hf download {model} {file_name} --local-dir {pasted(weights_dir)}")


def check_init_from(experiment: CheckedConfig) -> Iterator[Finding]:
    """Initial weights of teacher and student are on this machine, or will be downloaded."""
    trainings = {"teacher": experiment.options.teacher, "student": experiment.options.student}
    for stage, training in trainings.items():
        start = training.init_from if training else None
        if start is None or (stage == "student" and start == OWN_TEACHER):
            continue
        name = f"{stage}.init_from"
        if not start.startswith(TORCHVISION):
            yield _check_weights(name, start, f"s4m doctor {pasted(experiment.path)} --set {name}=none")
            continue
        network = start.removeprefix("torchvision://")
        if found := sorted(torch_checkpoints().glob(f"{network}-*.pth")):
            yield Finding(name, "ok", str(found[0]))
        else:
            text = f"{start} is not in {torch_checkpoints()}: it is downloaded at first use"
            code = f"import torchvision; torchvision.models.{network}(weights='IMAGENET1K_V1')"
            command = f'python -c "{code}"'
            yield Finding(name, "warn", text, command)


def _check_weights(name: str, source: str, without: str) -> Finding:
    """Whether a file, or a file by its published name, is here.

    Args:
        without: command that does without it.
    """
    try:
        found = weights_here(source)
        if found is not None:
            return Finding(name, "ok", str(found.path))
        if not is_published(source):
            return Finding(name, "fix", f"no file {source}", without)
        return Finding(name, "warn", f"{source} is not here: fetched at first use", fetch_command(source))
    except UserError as error:
        return Finding(name, "fix", str(error), without)


def disk_bytes(experiment: CheckedConfig) -> int:
    """What the experiment will write; see `planning.estimates`."""
    number = estimates.count_unlabeled(experiment.options.data)
    return estimates.disk_bytes(experiment.options, experiment.config, number)


def shared_bytes(experiment: CheckedConfig) -> int:
    """Images of 3 bytes a pixel in all batches that the loader processes of a training keep ready."""
    options = experiment.options
    steps = [options.teacher.batch_size * options.teacher.workers]
    if options.student:
        student = options.student
        steps.append((student.batch_size + student.unlabeled_batch_size) * student.workers)
    return max(steps) * _PREFETCHED * 3 * estimates.training_pixels(experiment.config["train_pipeline"])


def check_loggers(experiment: CheckedConfig) -> Iterator[Finding]:
    """The loggers that the config names are installed."""
    trainings = {"teacher": experiment.options.teacher, "student": experiment.options.student}
    asking = {
        name: f"{stage}.logger" for stage, options in trainings.items() if options for name in options.logger
    }
    for name, setting in asking.items():
        if find_spec(name) is None:
            yield Finding(name, "fix", f"{setting}: {name} is not installed", f"pip install {name}")
