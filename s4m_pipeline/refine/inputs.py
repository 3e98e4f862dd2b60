"""Everything that refine reads and checks before the work begins."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cache.fingerprint import file_hash, settings_hash
from s4m_pipeline.data.coco import CocoData, load_coco
from s4m_pipeline.data.unlabeled import UnlabeledImages, load_unlabeled
from s4m_pipeline.engine.checkpoint import Weights, read_weights, require_classes
from s4m_pipeline.errors import UserError
from s4m_pipeline.evaluation.ground_truth import require_same_classes, require_truth
from s4m_pipeline.models.load import load_network
from s4m_pipeline.options.experiment import Options
from s4m_pipeline.options.groups import DataOptions
from s4m_pipeline.refine.recipe import Recipe
from s4m_pipeline.sam import LoadedSam, load_configured_sam

if TYPE_CHECKING:
    from s4m_pipeline.models.mask2former import InstanceMask2Former


@dataclass(frozen=True)
class RefineInputs:
    """What labels are made of and what they are measured by."""

    options: Options
    parts: Mapping[str, Any]
    """The whole config as plain values."""
    labelled: CocoData
    """Gives the classes."""
    unlabeled: UnlabeledImages
    truth: CocoData | None
    """Annotations of the unlabelled images, to measure the labels by."""
    held_out: CocoData | None
    """The validation images, by which generations are compared; None without a `student` group."""
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
        return load_network(self.parts, self.weights, len(self.labelled.categories), "cpu")

    def with_weights(self, path: Path, *, trust: bool = False) -> "RefineInputs":
        """The same with another teacher, for the next generation.

        Raises:
            UserError: as `load_inputs`.
        """
        return dataclasses.replace(self, weights=_load_teacher(path, self.labelled, trust))

    def fingerprint(self) -> dict[str, str | int | float | bool | None]:
        """All that labels depend on; shards and later sessions that differ in it are refused."""
        options, sam = self.options, self.sam
        on_gpu = device() == "cuda"
        return {
            "teacher": file_hash(self.weights.path),
            "teacher precision": options.teacher.precision if on_gpu else "fp32",
            "model": settings_hash(self.parts["model"]),
            "test_pipeline": settings_hash(self.parts["test_pipeline"]),
            "sam": sam and sam.model,
            "sam weights": sam and f"sha256:{sam.weights_sha256[:16]}",
            "sam config": sam and f"sha256:{sam.config_sha256[:16]}",
            "sam precision": sam and ("bf16" if on_gpu else "fp32"),
            "embeddings": "fp16" if sam and options.cache.embeddings else None,
            "image names": self.unlabeled.digest,
            **{item.name: getattr(options.refine, item.name) for item in dataclasses.fields(Recipe)},
        }


def load_inputs(
    options: Options,
    parts: Mapping[str, Any],
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
    labelled = load_coco(data.path(data.labeled), data.path(data.train_images))
    unlabeled, truth = _load_unlabeled(data, recipe.ground_truth, labelled)
    teacher = _load_teacher(weights, labelled, trust)
    held_out = None if options.student is None else load_coco(*data.split("val"))
    if held_out is not None:
        require_same_classes(held_out, labelled, "Give a file with the same categories as data.val.")
    if recipe.prompt is None:
        sam = None
    elif sam is None:
        sam = load_configured_sam(options.sam)
    return RefineInputs(options, parts, labelled, unlabeled, truth, held_out, teacher, sam)


def device() -> str:
    """Where networks run: the process's GPU if it has one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def _load_unlabeled(
    data: DataOptions, ground_truth: str | None, labelled: CocoData
) -> tuple[UnlabeledImages, CocoData | None]:
    """The images, and their annotations if there are any."""
    if data.unlabeled is None:
        raise UserError(
            "The config has no data.unlabeled.\nSet it to a COCO JSON of the unlabelled images or a folder; "
            "`s4m data split` makes such a file."
        )
    images_root = data.path(data.train_images)
    unlabeled = load_unlabeled(data.path(data.unlabeled), images_root)
    truth = unlabeled.annotated
    if ground_truth is not None:
        truth = load_coco(data.path(ground_truth), images_root)
        require_truth(truth, unlabeled.images, labelled)
    elif truth is not None:
        remedy = (
            "They only serve to measure labels: take them out of data.unlabeled, or correct their classes."
        )
        require_same_classes(truth, labelled, remedy)
    return unlabeled, truth


def _load_teacher(path: Path, labelled: CocoData, trust: bool) -> Weights:
    weights = read_weights(path, trust=trust)
    require_classes(weights, tuple(labelled.class_names), str(labelled.json_path))
    return weights
