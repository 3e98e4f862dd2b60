"""Everything that refine reads and checks before it starts, and the networks on the device."""

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from s4m_pipeline.config.experiment import Options
from s4m_pipeline.config.groups import DataOptions
from s4m_pipeline.core import console
from s4m_pipeline.data.coco import CocoData, load_coco
from s4m_pipeline.data.depth_files import require_depth
from s4m_pipeline.data.folder import unread_files
from s4m_pipeline.data.unlabeled import UnlabeledImages, unlabeled_of
from s4m_pipeline.evaluation.ground_truth import require_same_classes, require_truth
from s4m_pipeline.models.checkpoint import Weights, read_weights, require_classes
from s4m_pipeline.models.load import load_network
from s4m_pipeline.refine.fingerprint import label_fingerprint
from s4m_pipeline.sam import BatchedSam, LoadedSam, load_configured_sam

if TYPE_CHECKING:
    from s4m_pipeline.models.mask2former import InstanceMask2Former


@dataclass(frozen=True)
class RefineInputs:
    """What labels are made of and what they are measured by."""

    options: Options
    config: Mapping[str, Any]
    """The whole config as plain values."""
    labeled: CocoData
    """Gives the classes."""
    unlabeled: UnlabeledImages
    truth: CocoData | None
    """Annotations of the unlabeled images, to measure the labels by."""
    held_out: CocoData | None
    """The validation images, to measure labels on; None if nothing is decided by them."""
    weights: Weights
    """The teacher's."""
    sam: LoadedSam | None
    """None: the teacher's masks are kept."""

    @cached_property
    def teacher(self) -> "InstanceMask2Former":
        """The teacher in eval mode, on the CPU.

        Raises:
            UserError: if the weights do not fit the config's model.
        """
        return load_network(self.config, self.weights, len(self.labeled.categories), "cpu")

    def with_weights(self, path: Path) -> "RefineInputs":
        """The same with another teacher, for the next generation.

        Raises:
            UserError: as `load_inputs`.
        """
        return dataclasses.replace(self, weights=_load_teacher(path, self.labeled, trust=False))

    def fingerprint(self) -> dict[str, str | int | float | bool | None]:
        """All that labels depend on; shards and later sessions that differ in it are refused."""
        return label_fingerprint(
            self.options, self.config, self.weights.file, self.sam, self.unlabeled.digest
        )


def load_inputs(
    options: Options,
    config: Mapping[str, Any],
    weights: Path,
    *,
    trust: bool = False,
    sam: LoadedSam | None = None,
) -> RefineInputs:
    """Read and check everything.

    Args:
        weights: the teacher's: a .safetensors file or a checkpoint.
        trust: read a checkpoint even if its file runs code.
        sam: taken instead of loading the config's again.

    Raises:
        UserError: if a file is missing, damaged or does not belong to the others.
    """
    data, recipe = options.data, options.refine
    labeled = load_coco(data.path(data.labeled), data.path(data.train_images))
    unlabeled, truth = load_with_truth(data, recipe.ground_truth, labeled)
    teacher = _load_teacher(weights, labeled, trust)
    measured = options.student is not None or recipe.prompt == "auto" or recipe.accept == "calibrated"
    held_out = load_coco(*data.split("val")) if measured else None
    if held_out is not None:
        require_same_classes(held_out, labeled, "Give a file with the same categories as data.val.")
    if recipe.prompt is None:
        sam = None
    elif sam is None:
        sam = load_configured_sam(options.sam)
    return RefineInputs(options, config, labeled, unlabeled, truth, held_out, teacher, sam)


class Networks(NamedTuple):
    """Teacher and SAM, ready to run."""

    teacher: Any
    sam: BatchedSam | None


@contextmanager
def networks_on_device(inputs: RefineInputs) -> Iterator[Networks]:
    """Teacher and SAM on the device, which both leave at the end.

    Raises:
        UserError: as `RefineInputs.teacher`.
    """
    options = inputs.options
    teacher = inputs.teacher.to(device())
    sam = None
    if inputs.sam is not None:
        sam = BatchedSam(
            inputs.sam.network,
            device=device(),
            encoder_batch=options.sam.encoder_batch,
            decoder_chunk=options.sam.decoder_chunk,
            compile=options.sam.compile,
        )
    try:
        yield Networks(teacher, sam)
    finally:
        teacher.cpu()
        if inputs.sam is not None:
            inputs.sam.network.cpu()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def device() -> str:
    """Where networks run: the process's GPU if it has one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def load_with_truth(
    data: DataOptions, ground_truth: str | None, labeled: CocoData
) -> tuple[UnlabeledImages, CocoData | None]:
    """The unlabeled images, and their annotations if there are any.

    Raises:
        UserError: if the config has no unlabeled images, or annotations do not belong to them, or depth maps
            are missing.
    """
    unlabeled = unlabeled_of(data)
    if unlabeled.source.is_dir() and (left_out := unread_files(unlabeled.source)):
        console.progress.print(left_out, soft_wrap=True)
    if data.depth is not None:
        require_depth(unlabeled.images, data.depth)
    truth = unlabeled.annotated
    if ground_truth is not None:
        truth = load_coco(data.path(ground_truth), data.path(data.train_images))
        require_truth(truth, unlabeled.images, labeled)
    elif truth is not None:
        remedy = (
            "They only serve to measure labels: take them out of data.unlabeled, or correct their classes."
        )
        require_same_classes(truth, labeled, remedy)
    return unlabeled, truth


def _load_teacher(path: Path, labeled: CocoData, trust: bool) -> Weights:
    weights = read_weights(path, trust=trust)
    require_classes(weights, tuple(labeled.class_names), str(labeled.json_path))
    return weights
