"""The unlabelled images with the pseudo-labels of a generation of the cache."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from mmdet.datasets import BaseDetDataset
from mmdet.registry import DATASETS, TRANSFORMS
from mmengine.logging import print_log

from cache.generation import Generation
from cache.reader import CacheReader
from cache.records import ImageLabels
from s4m_pipeline.data.findings import Problem
from s4m_pipeline.data.images import ImageError
from s4m_pipeline.data.unlabeled import load_unlabeled
from s4m_pipeline.engine.window_masks import WindowMasks
from s4m_pipeline.errors import UserError


@DATASETS.register_module()
class PseudoLabelledImages(BaseDetDataset):
    """Clean images with the instances that the cache holds for them, also where it holds none.

    An image that cannot be used - unreadable, or of another size than its labels - and has no pseudo-labels
    was refused by refine before, and counted against `refine.max_unreadable`: it is skipped, that is, the
    draw's key chooses another image instead; the log names it. One that has labels was changed after refine:
    that is an error.

    Args:
        source: COCO JSON or folder of the unlabelled images.
        images: folder that the file names of a JSON are relative to.
        cache: the cache's root folder.
        classes: names in the order of the labels.
        pipeline: the labelled branch's transforms; see `pseudo_label_pipeline`.
        preload_bytes: of packed masks that each loading process keeps in memory.

    Raises:
        UserError: if the images cannot be listed, or the pipeline does not load images and annotations.
    """

    def __init__(
        self,
        source: str,
        images: str,
        cache: str,
        classes: Sequence[str],
        pipeline: Sequence[Mapping[str, Any]],
        preload_bytes: int = 0,
    ) -> None:
        self._images = load_unlabeled(Path(source), Path(images)).images
        self.cache_root = Path(cache)
        self.preload_bytes = preload_bytes
        self._reader: CacheReader | None = None
        self._reported: set[int] = set()
        super().__init__(
            ann_file=source,
            metainfo={"classes": tuple(classes)},
            pipeline=pseudo_label_pipeline(pipeline),
        )

    def load_data_list(self) -> list[dict[str, Any]]:
        """One record per image, without labels."""
        images = self._images
        del self._images  # mmengine keeps its own packed copy, which workers share
        return [{"img_path": str(image.path), "img_id": image.id} for image in images]

    def use_generation(self, number: int) -> None:
        """Take the pseudo-labels of this generation from now on, and let go of the one before.

        Raises:
            CacheError: if it is gone or damaged.
            UserError: if its classes are not `classes`.
        """
        if self._reader is not None and self._reader.generation.number == number:
            return
        reader = CacheReader(Generation(self.cache_root, number), preload_bytes=self.preload_bytes)
        found, expected = tuple(reader.generation.spec.classes), self.metainfo["classes"]
        if found != expected:
            reader.close()
            raise UserError(
                f"{reader.generation.path} holds labels of the classes {list(found)}, expected are those of "
                f"the labelled images: {list(expected)}. Run `s4m refine` for these images again."
            )
        self.close()
        self._reader = reader

    def close(self) -> None:
        """Let go of the generation; `use_generation` takes one again."""
        if self._reader is not None:
            self._reader.close()
        self._reader = None

    def prepare_data(self, idx: int) -> Any:
        """An image with its labels after the pipeline; None if it is to be skipped.

        Raises:
            CacheError: if the generation has no labels for it or is damaged.
            ImageError: if it has pseudo-labels, but cannot be read, or not in the size they are for.
        """
        if self._reader is None:
            raise RuntimeError("use_generation must be called before an image is asked for")
        results = self.get_data_info(idx)
        labels = self._reader.read(results["img_id"])
        try:
            return self.pipeline({**results, "pseudo_labels": labels})
        except ImageError as error:
            if len(labels.instances):
                raise
            if idx not in self._reported:
                print_log(f"Skipped: {error}", logger="current", level=logging.WARNING)
            self._reported.add(idx)
            return None


@TRANSFORMS.register_module()
class LoadPseudoLabels(BaseTransform):
    """Gives the instances in `pseudo_labels` the names that mmdet's transforms look for; see `WindowMasks`.

    Instances without pixels are left out.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add boxes (M, 4) xyxy float32, labels (M,) int64, masks, and ignore flags, all false.

        Raises:
            ImageError: naming the file and both sizes, if `img` has another size than the labels.
        """
        labels: ImageLabels = results.pop("pseudo_labels")
        _check_size(Path(results["img_path"]), results["img_shape"], labels)
        instances = labels.instances.select(labels.instances.masks.areas > 0)
        masks = WindowMasks(instances.masks, labels.height, labels.width)
        results.update(
            gt_bboxes=masks.get_bboxes(),
            gt_bboxes_labels=instances.labels.astype(np.int64),
            gt_masks=masks,
            gt_ignore_flags=np.zeros(len(masks), np.bool_),
        )
        return results


def pseudo_label_pipeline(pipeline: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A labelled data set's transforms for pseudo-labels: `LoadPseudoLabels` in place of `LoadAnnotations`.

    Unlike there, an image is not drawn anew because it shows no instance: the other branch of ARP may paste
    some into it. So `FilterAnnotations` and `RandomCrop` let images without instances pass.

    Raises:
        UserError: if the transforms do not begin with `LoadRGB` and `LoadAnnotations`.
    """
    names = [transform["type"] for transform in pipeline]
    if names[:2] != ["LoadRGB", "LoadAnnotations"]:
        raise UserError(
            "train_pipeline: expected LoadRGB and LoadAnnotations as the first transforms (for unlabelled "
            f"images the second one reads pseudo-labels), found {', '.join(names[:2]) or 'nothing'}."
        )
    let_pass = {
        "FilterAnnotations": {"keep_empty": False},  # it means: do not drop the image when it becomes empty
        "RandomCrop": {"allow_negative_crop": True},
    }
    rest = [{**transform, **let_pass.get(transform["type"], {})} for transform in pipeline[2:]]
    return [{"type": "LoadRGB"}, {"type": "LoadPseudoLabels"}, *rest]


def _check_size(path: Path, found: tuple[int, int], labels: ImageLabels) -> None:
    if found != (labels.height, labels.width):
        raise ImageError(
            path,
            Problem.SIZE_DIFFERS,
            f"is {found[1]} x {found[0]} pixels, its pseudo-labels are for {labels.width} x {labels.height}",
        )
