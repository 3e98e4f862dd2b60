"""The unlabeled images with the pseudo-labels of a generation of the cache."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from mmdet.datasets import BaseDetDataset
from mmengine.logging import print_log
from numpy.typing import NDArray

from s4m_cache.generation import Generation
from s4m_cache.masks import Masks
from s4m_cache.reader import CacheReader
from s4m_cache.records import ImageLabels
from s4m_cache.schema import IGNORED
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.core.locations import cache_location, location
from s4m_pipeline.data.findings import Problem
from s4m_pipeline.data.images import ImageError
from s4m_pipeline.data.unlabeled import load_unlabeled
from s4m_pipeline.data.window_masks import WindowMasks


class PseudoLabeledImages(BaseDetDataset):
    """Unlabeled images with the pseudo-labels that the cache holds for them, which may be none.

    An unusable image (unreadable, or its size is not that of its labels) without pseudo-labels was skipped
    by refine as well, and counted there against `refine.max_unreadable`: another one is drawn instead, and
    the log names it. An unusable image with pseudo-labels has changed since refine: that is an error.

    Args:
        source: COCO JSON or folder of the unlabeled images.
        images: folder that the file names of a JSON are relative to.
        cache: the cache's root, a folder or an address.
        classes: names in the order of the labels.
        pipeline: the labeled branch's transforms; see `pseudo_label_pipeline`.
        preload_bytes: size of the packed masks that each loading process keeps in memory.
        objects_per_image: how many labels of each class are taken on average, those of the highest scores;
            None: all.
        score_weights: weigh the class loss of a label by its score, and its mask losses by its estimated IoU.

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
        objects_per_image: Sequence[float] | None = None,
        score_weights: bool = False,
    ) -> None:
        self._images = load_unlabeled(location(source), location(images)).images
        self.cache_root = cache
        self.preload_bytes = preload_bytes
        self.objects_per_image = objects_per_image
        self.score_weights = score_weights
        self._min_scores: NDArray[np.float64] = np.zeros(len(classes))
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
        """Use the pseudo-labels of this generation from now on, and release the previous one.

        Raises:
            CacheError: if it is missing or damaged.
            UserError: if its classes are not `classes`.
        """
        if self._reader is not None and self._reader.generation.number == number:
            return
        root = cache_location(self.cache_root)  # new: connections to a store do not survive a fork
        reader = CacheReader(Generation(root, number), preload_bytes=self.preload_bytes)
        found, expected = tuple(reader.generation.spec.classes), self.metainfo["classes"]
        if found != expected:
            reader.close()
            raise UserError(
                f"{reader.generation.path} holds labels of the classes {list(found)}, but the labeled images "
                f"have {list(expected)}. Run `s4m refine` for these images again."
            )
        self.close()
        self._reader = reader
        if self.objects_per_image is not None:
            self._min_scores = matching_scores(reader, self.objects_per_image)

    def close(self) -> None:
        """Release the generation; `use_generation` may be called again."""
        if self._reader is not None:
            self._reader.close()
        self._reader = None

    def prepare_data(self, idx: int) -> Any:
        """An image with its labels after the pipeline; None if it is to be skipped.

        Raises:
            CacheError: if the generation has no labels for it or is damaged.
            ImageError: if it has pseudo-labels, but cannot be read, or its size is not theirs.
        """
        if self._reader is None:
            raise RuntimeError("use_generation must be called before an image is asked for")
        results = self.get_data_info(idx)
        labels = self._reader.read(results["img_id"])
        try:
            taken = _confident(labels, self._min_scores)
            return _learnable(self.pipeline({**results, "pseudo_labels": taken}), self.score_weights)
        except ImageError as error:
            if len(labels.instances):
                raise
            if idx not in self._reported:
                print_log(f"Skipped: {error}", logger="current", level=logging.WARNING)
            self._reported.add(idx)
            return None


class LoadPseudoLabels(BaseTransform):
    """Gives the instances in `pseudo_labels` the names that mmdet's transforms expect; see `WindowMasks`.

    Instances without pixels are left out. Ignored ones become a single mask, the last one, with a true ignore
    flag: where one of both masks of an ignored instance is, and no other instance. The cache's boxes become
    mmdet's x0, y0, x1, y1 here.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add boxes (M, 4) float32 x0, y0, x1, y1, labels (M, 3), masks, and ignore flags (M,) bool.

        A label is the class, the score and the estimated IoU: mmdet's transforms drop all three with a mask.

        Raises:
            ImageError: naming the file and both sizes, if `img` does not have the size of the labels.
        """
        labels: ImageLabels = results.pop("pseudo_labels")
        _check_size(location(results["img_path"]), results["img_shape"], labels)
        kept = labels.instances.kept
        kept = kept.select(kept.masks.areas > 0)
        region = _ignored_region(labels)
        num_kept, num_regions = len(kept), len(region)
        # The estimate is of the refined mask; of a teacher's mask that is preferred to it nothing is known.
        quality = np.where(kept.use_raw, 1.0, np.nan_to_num(kept.pred_ious, nan=1.0))
        table = np.stack([kept.labels, kept.scores, quality], axis=1)
        masks = WindowMasks(Masks.join([kept.masks, region]), labels.height, labels.width)
        results.update(
            gt_bboxes=masks.get_bboxes(),
            gt_bboxes_labels=np.concatenate([table, np.zeros((num_regions, 3))]),
            gt_masks=masks,
            gt_ignore_flags=np.arange(num_kept + num_regions) >= num_kept,
        )
        return results


def matching_scores(reader: CacheReader, objects_per_image: Sequence[float]) -> NDArray[np.float64]:
    """(C,) scores that so many labels of each class reach, over all images of a generation.

    Ignored labels do not count. Of a class with too few labels all are taken.
    """
    counted = reader.column("use_raw") != IGNORED
    labels, scores = reader.column("label")[counted], reader.column("score")[counted]
    wanted = np.round(np.array(objects_per_image) * len(reader.column("image_id"))).astype(int)
    found = np.full(len(wanted), np.inf)
    for label, count in enumerate(wanted.tolist()):
        ranked = np.sort(scores[labels == label])[::-1]
        if count:
            found[label] = ranked[count - 1] if count <= len(ranked) else 0.0
    return found


def pseudo_label_pipeline(pipeline: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A labeled data set's transforms for pseudo-labels: `LoadPseudoLabels` in place of `LoadInstances`.

    Unlike labeled images, one without instances is kept, because ARP may paste some into it: so
    `FilterAnnotations` and `RandomCrop` are set to let it pass.

    Raises:
        UserError: if the first two transforms are not `LoadRGB` and `LoadInstances` (or `LoadAnnotations`).
    """
    names = [transform["type"] for transform in pipeline]
    if names[:2] not in (["LoadRGB", "LoadInstances"], ["LoadRGB", "LoadAnnotations"]):
        raise UserError(
            "train_pipeline: expected LoadRGB and LoadInstances as the first transforms (for unlabeled "
            f"images, the second is replaced by pseudo-labels), found {', '.join(names[:2]) or 'nothing'}."
        )
    let_pass = {
        "FilterAnnotations": {"keep_empty": False},  # mmdet's name for: keep images without instances
        "RandomCrop": {"allow_negative_crop": True},
    }
    rest = [{**transform, **let_pass.get(transform["type"], {})} for transform in pipeline[2:]]
    return [{"type": "LoadRGB"}, {"type": LoadPseudoLabels}, *rest]


def _confident(labels: ImageLabels, min_scores: NDArray[np.float64]) -> ImageLabels:
    """Without the labels whose scores are below those of their classes; ignored ones stay."""
    instances = labels.instances
    kept = (instances.scores >= min_scores[instances.labels]) | instances.ignored
    return labels if kept.all() else dataclasses.replace(labels, instances=instances.select(kept))


def _ignored_region(labels: ImageLabels) -> Masks:
    """The mask of what is ignored in an image; none if nothing is."""
    instances = labels.instances
    if not instances.ignored.any():
        return Masks.empty(0)
    ignored, whole = instances.select(instances.ignored), (0, 0, labels.height, labels.width)
    assert ignored.raw_masks is not None  # read where one is ignored
    both = np.concatenate([ignored.raw_masks.dense(whole), ignored.refined_masks.dense(whole)])
    # Of an object that has a label, a second prediction is wrong, also where an ignored label covers it.
    region = np.any(both, axis=0) & ~np.any(instances.kept.masks.dense(whole), axis=0)
    masks = Masks.from_dense(region[None])
    return masks.select(masks.areas > 0)


def _learnable(sample: Any, score_weights: bool) -> Any:
    """A loaded sample with labels (N,), `weights` (N, 2) if wanted, and `ignored`, one mask, if anything is.

    mmdet's `ignored_instances` are dropped later: those of labeled images are crowds, which are not used.
    """
    if sample is None:
        return None
    found = sample["data_samples"]
    if len(ignored := found.ignored_instances):
        found.ignored = ignored.masks
    table = found.gt_instances.labels
    found.gt_instances.labels = table[:, 0].long()
    if score_weights:
        found.gt_instances.weights = table[:, 1:].float()
    return sample


def _check_size(path: Path, found: tuple[int, int], labels: ImageLabels) -> None:
    if found != (labels.height, labels.width):
        raise ImageError(
            path,
            Problem.SIZE_DIFFERS,
            f"is {found[1]} x {found[0]} pixels, its pseudo-labels are for {labels.width} x {labels.height}",
        )
