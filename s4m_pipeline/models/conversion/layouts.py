"""Whose names the tensors of a file have, and the same tensors under ours."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from s4m_pipeline.config.weight_files import WeightFile
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.models.conversion.detectron2 import from_detectron2, networks
from s4m_pipeline.models.conversion.huggingface import from_huggingface, listed_classes
from s4m_pipeline.models.registry import register_all

Classes = tuple[str, ...] | None


def own_names(tensors: dict[str, Tensor], file: WeightFile) -> tuple[dict[str, Tensor], Classes]:
    """The tensors of the network that is meant, and its classes where these are known.

    Args:
        tensors: all of the file; returned as they are if they have our names.

    Raises:
        UserError: if the file does not hold the network that is meant, or it is not said which of two.
    """
    if any("sem_seg_head." in name for name in tensors):
        converted = from_detectron2(_chosen(tensors, file))
        return converted, _classes_by_number(converted)
    if file.network is not None:
        raise UserError(
            f"{file.path} holds one network, not those of Detectron2's checkpoints.\n"
            f"Leave #{file.network} out."
        )
    if any(name.startswith("model.pixel_level_module.") for name in tensors):
        return from_huggingface(tensors), listed_classes(file.path.with_name("config.json"))
    return tensors, _classes_by_number(tensors) if file.published else None


def _chosen(tensors: Mapping[str, Tensor], file: WeightFile) -> dict[str, Tensor]:
    found = networks(tensors)
    wanted = file.network or (next(iter(found)) if len(found) == 1 else None)
    if wanted in found:
        return found[wanted]
    names = " or ".join(f"{file.path}#{name}" for name in found)
    if wanted is None:
        raise UserError(
            f"{file.path} holds two networks, {' and '.join(found)}.\n"
            f"Name one: {names}. Scores that are published for such a file are the student's."
        )
    raise UserError(f"{file.path} holds no network {wanted!r}.\nExpected: {names}.")


def _classes_by_number(tensors: Mapping[str, Tensor]) -> Classes:
    """The classes of COCO or Cityscapes, by their number, for files that do not name them."""
    register_all()

    from mmdet.datasets import CityscapesDataset, CocoDataset

    rows = tensors.get("panoptic_head.cls_embed.weight")
    listed: list[Any] = [kind.METAINFO["classes"] for kind in (CocoDataset, CityscapesDataset)]
    return next((tuple(names) for names in listed if rows is not None and len(rows) == len(names) + 1), None)
