"""Hours and disk of the three stages for any number of images and GPUs, and where each figure comes from.

"measured": the experiment has done a part of the stage, and recorded its speed or size. "counted": operations
of the networks, divided by a `Speed`; at a GPU's peak, which no program reaches, they are a lower bound.
Validations and the reading of images are not counted.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

from s4m_cache.generation import Generation
from s4m_cache.generations import generations
from s4m_cache.parts import Part
from s4m_pipeline.config.groups import TrainOptions
from s4m_pipeline.config.student import StudentOptions
from s4m_pipeline.core.paths import STUDENT, TEACHER
from s4m_pipeline.experiment.metrics import read_metrics
from s4m_pipeline.experiment.run_record import read_run
from s4m_pipeline.planning.estimates import GB, LABEL_BYTES, REFINE, median_metric, stage_bytes
from s4m_pipeline.planning.operations import Counted, Speed, labeled_image, lacking_memory, training_image
from s4m_pipeline.planning.plan import Experiment
from s4m_pipeline.refine.record import DEVICE, RATE

LIST_BYTES = 855
"""Of the list of images, per image, in each process that reads it (docs/cluster.md)."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a stage takes."""

    stage: str
    gpus: int
    """As many as it can use."""
    hours: float | None
    """None: neither measured nor counted."""
    hours_from: str
    disk_bytes: int
    disk_from: str
    limit: str
    """What would have to change first, for more images or fewer hours."""


class _Rate(NamedTuple):
    """Seconds of one GPU for one image; None: unknown."""

    seconds: float | None
    origin: str
    limit: str


@dataclass(frozen=True)
class Costs:
    """What an experiment takes with its `devices` GPUs.

    Attributes:
        num_unlabeled: images to label.
        speed: what counted operations are divided by; None: only what was measured is known.
        device: part of the name of the device whose records are taken; empty: of any.
    """

    experiment: Experiment
    num_unlabeled: int
    speed: Speed | None = None
    device: str = ""

    def stages(self) -> list[Cost]:
        """Of teacher, labels and student."""
        options = self.experiment.options
        cache = options.cache.folder(self.experiment.folder)
        found = ((it, self._recorded_labels(it)) for it in generations(cache))
        made = [(generation, rate) for generation, rate in found if rate is not None]
        first, later = (
            (made[0][1], made[-1][1])
            if made
            else (self._count_labels(embedded=False), self._count_labels(embedded=True))
        )
        of_image = _label_bytes(made[-1][0]) if made else LABEL_BYTES
        origin = (
            f"measured: {made[-1][0].name}" if made else f"counted: {LABEL_BYTES / 1000:.0f} kB per image"
        )
        disk = stage_bytes(options, self.experiment.config, self.num_unlabeled, of_image)
        embeddings = "; counted: 8 MiB per embedding" if options.cache.embeddings else ""
        costs = [
            self._training(TEACHER, options.teacher, 0, None, disk[TEACHER], "counted: checkpoints"),
            self._labels(first, disk[REFINE], origin + embeddings),
        ]
        if (student := options.student) is not None:
            unlabeled = student.unlabeled_batch_size
            costs.append(self._training(STUDENT, student, unlabeled, later, disk[STUDENT], origin))
        return costs

    def _training(
        self,
        stage: str,
        training: TrainOptions,
        unlabeled: int,
        labels: _Rate | None,
        disk_bytes: int,
        disk_from: str,
    ) -> Cost:
        """Of a training with `unlabeled` images per iteration, and its refreshed labels."""
        images, wanted = training.batch_size + unlabeled, self.experiment.devices
        gpus = _usable(wanted, training.batch_size, unlabeled)
        rate = self._recorded_training(stage) or self._count_training(stage)
        seconds, origin = _times(training.iterations * images, rate.seconds), rate.origin
        if isinstance(training, StudentOptions) and labels is not None and (number := refreshes(training)):
            relabeled = _times(number * self.num_unlabeled, labels.seconds)
            seconds = None if seconds is None or relabeled is None else seconds + relabeled
            origin += f"; labels {labels.origin}" if labels.origin != rate.origin else ""
        limit = rate.limit
        if gpus < wanted:
            limit = f"batch size: {wanted - gpus} GPUs remain idle"
        elif self.speed and (
            lacking := lacking_memory(training, self.experiment.config, images, gpus, self.speed)
        ):
            limit = lacking
        if unlabeled and (drawn := training.iterations * unlabeled) < self.num_unlabeled:
            limit = f"iterations: {drawn / self.num_unlabeled:.1%} of the images are drawn"
        return _cost(stage, gpus, seconds, origin, disk_bytes, disk_from, limit)

    def _labels(self, rate: _Rate, disk_bytes: int, disk_from: str) -> Cost:
        listed = self.num_unlabeled * LIST_BYTES / GB
        limit = f"memory: a list of {listed:.0f} GB in each process" if listed >= 4 else rate.limit
        seconds = _times(self.num_unlabeled, rate.seconds)
        return _cost(REFINE, self.experiment.devices, seconds, rate.origin, disk_bytes, disk_from, limit)

    def _recorded_training(self, stage: str) -> _Rate | None:
        """From the records of a training that ran on the device."""
        folder = self.experiment.folder / stage
        run, records = read_run(folder) or {"sessions": []}, read_metrics(folder)
        step_s, data_s = (median_metric(records, f"{kind}seconds_per_step") for kind in ("", "data_"))
        session = next((it for it in reversed(run["sessions"]) if "batch_parts" in it), None)
        if step_s is None or session is None or self.device not in session["device"].lower():
            return None
        settings = run["config"][stage]
        gpus = session["batch_parts"] / settings.get("accumulate", 1)
        images = settings["batch_size"] + settings.get("unlabeled_batch_size", 0)
        limit = "reading of images" if (data_s or 0) > step_s / 2 else "iterations"
        return _Rate(step_s * gpus / images, f"measured: {stage}, {session['device']}", limit)

    def _recorded_labels(self, generation: Generation) -> _Rate | None:
        """From the statistics of a published generation that was made on the device."""
        statistics: dict[str, Any] = (generation.published() or {}).get("statistics") or {}
        device = statistics.get(DEVICE, "")
        if not statistics.get(RATE) or not all(self.device in name.lower() for name in device.split(", ")):
            return None
        stages = {name: value for name, value in statistics.items() if name.startswith("seconds: ")}
        slowest = max(stages, key=lambda name: stages[name], default="").removeprefix("seconds: ")
        about = f"measured: {generation.name}, {device or 'device not recorded'}"
        return _Rate(1 / statistics[RATE], about, slowest)

    def _count_training(self, stage: str) -> _Rate:
        options = self.experiment.options
        distilled = options.sd.enabled if stage == TEACHER else options.require_student().distill
        return self._counted(
            self.speed and training_image(options, self.experiment.config, self.speed, distilled=distilled)
        )

    def _count_labels(self, *, embedded: bool) -> _Rate:
        options = self.experiment.options
        stored = embedded and options.cache.embeddings
        return self._counted(
            self.speed and labeled_image(options, self.experiment.config, self.speed, embedded=stored)
        )

    def _counted(self, counted: Counted | None) -> _Rate:
        if self.speed is None:
            return _Rate(None, "not measured; --gpu or --bench count", "-")
        if counted is None:
            return _Rate(None, "not measured; not counted for this backbone", "-")
        return _Rate(counted.seconds, f"counted: {self.speed.origin}", counted.limit)


def _cost(
    stage: str,
    gpus: int,
    gpu_seconds: float | None,
    hours_from: str,
    disk_bytes: int,
    disk_from: str,
    limit: str,
) -> Cost:
    return Cost(
        stage=stage,
        gpus=gpus,
        hours=_times(1 / (3600 * gpus), gpu_seconds),
        hours_from=hours_from,
        disk_bytes=disk_bytes,
        disk_from=disk_from,
        limit=limit,
    )


def _times(factor: float, seconds: float | None) -> float | None:
    return None if seconds is None else factor * seconds


def _usable(gpus: int, labeled: int, unlabeled: int) -> int:
    """As many of the GPUs as the batch can be divided among; ARP needs a pair of unlabeled images on each."""
    most = min(gpus, labeled, max(unlabeled // 2, 1) if unlabeled else gpus)
    return next(n for n in range(most, 0, -1) if labeled % n == 0 and unlabeled % n == 0)


def refreshes(student: StudentOptions) -> int:
    """How often a training has all images labeled again."""
    begin = max(student.burn_in, 1)
    return len(range(begin, student.iterations, student.refresh_every)) if student.refresh_every else 0


def _label_bytes(generation: Generation) -> float:
    """Per image, in the first parts."""
    parts = [Part(path) for path in generation.part_paths()[:16]]
    return sum(part.size_bytes for part in parts) / sum(len(part.image_ids) for part in parts)
