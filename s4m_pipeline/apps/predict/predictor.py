"""A trained network applied to images."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet.structures import DetDataSample
from numpy.typing import NDArray

from s4m_cache.masks import Masks
from s4m_pipeline.config.experiment import load_experiment
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.data.coco_entries import CocoImage
from s4m_pipeline.data.images import read_rgb
from s4m_pipeline.evaluation.duplicates import DUPLICATE_IOU, keep_first
from s4m_pipeline.evaluation.pseudo_label_quality import same_class_iou
from s4m_pipeline.models.checkpoint import read_weights
from s4m_pipeline.models.load import load_network, named_classes
from s4m_pipeline.refine.images import (
    Photo,
    PhotoFiles,
    Unreadable,
    batches_by_size,
    load_photos,
    readable,
)


@dataclass(frozen=True, eq=False)
class Detections:
    """N objects of one image of H x W pixels, the most confident one first; no mask is empty.

    Attributes:
        image_hw_px: height and width of the image.
        packed: the masks as they are kept, a bit for each pixel of their boxes.
        labels: int64 (N,), index into `Predictor.classes`.
        scores: float32 (N,) in [0, 1]: class probability times mean mask probability inside the mask.
    """

    image_hw_px: tuple[int, int]
    packed: Masks
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def masks(self) -> NDArray[np.bool_]:
        """Bool (N, H, W), a byte for each pixel: of many objects in a large image, see `each_mask`."""
        return self.packed.dense((0, 0, *self.image_hw_px))

    def each_mask(self) -> Iterator[NDArray[np.bool_]]:
        """One bool (H, W) after the other."""
        return self.packed.each((0, 0, *self.image_hw_px))

    @property
    def boxes(self) -> NDArray[np.float32]:
        """Float32 (N, 4), tight x0, y0, x1, y1 in pixels, x1 and y1 exclusive."""
        return self.packed.boxes[:, [1, 0, 3, 2]].astype(np.float32)


class Predictor:
    """The network of a config with the weights of a checkpoint.

    Predictions are computed in fp32, each image padded as if it were alone, as in `s4m evaluate`; with
    `tiles.size_px`, large images are cut. An object whose mask overlaps a more confident one's, of whatever
    class, with an IoU of at least `refine.nms_iou` is a duplicate and dropped; `DUPLICATE_IOU` if that is
    None.

    Args:
        config: the config that the checkpoint was trained with.
        checkpoint: .safetensors, a training checkpoint .pth, or published weights (docs/weights.md).
        overrides: texts `a.b=c` on top of the config.
        min_score: objects of a lower score are left out; 0 keeps all, duplicates as well, as `s4m evaluate`
            does.
        device: "cpu", "cuda:0", ...; None: the first GPU, or the CPU.
        trust_checkpoint: load a .pth even if its file runs code.

    Attributes:
        classes: class names by label.
        network: the `InstanceMask2Former`, in eval mode.

    Raises:
        UserError: on faults of the config or the checkpoint, or if they do not belong together.
    """

    def __init__(
        self,
        config: str | Path,
        checkpoint: str | Path,
        *,
        overrides: Sequence[str] = (),
        min_score: float = 0.5,
        device: str | None = None,
        trust_checkpoint: bool = False,
    ) -> None:
        options, self._config = load_experiment(Path(config), overrides)
        weights = read_weights(checkpoint, trust=trust_checkpoint)
        self.classes = named_classes(weights)
        self.network = load_network(self._config, weights, len(self.classes), device)
        self.min_score = min_score
        self.nms_iou = (options.refine.nms_iou or DUPLICATE_IOU) if min_score > 0 else None

    def predict(self, image: str | Path | NDArray[np.uint8]) -> Detections:
        """The objects of one image: a file, or uint8 RGB (H, W, 3).

        Raises:
            ImageError: if the file cannot be read.
            UserError: if the array has a different shape or dtype, or the network needs its depth map.
        """
        path = None
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
                raise UserError(f"expected uint8 RGB (H, W, 3), got {image.dtype} {image.shape}.")
            pixels = image.copy()
        else:
            path = Path(image)
            pixels, _ = read_rgb(path)
        (found,) = self._detect([self._files([]).photo(0, pixels, path)])
        return found

    def stream(
        self,
        images: Sequence[CocoImage],
        report: Callable[[Unreadable], None],
        *,
        batch_size: int = 1,
        workers: int = 0,
    ) -> Iterator[tuple[Photo, Detections]]:
        """Photos with their objects, a batch at a time; images of similar shape are grouped.

        Args:
            images: files and their expected sizes.
            report: called with each image that cannot be read.
            batch_size: photos per pass.
            workers: processes that decode images; 0 decodes in the main process.
        """
        divisor = int(self.network.data_preprocessor.pad_size_divisor)
        photos = readable(load_photos(self._files(images), workers, pin_memory=False), report)
        for batch in batches_by_size(photos, batch_size, divisor, self.network.tiling):
            yield from zip(batch, self._detect(batch), strict=True)

    def _files(self, images: Sequence[CocoImage]) -> PhotoFiles:
        return PhotoFiles(images, self._config["test_pipeline"])

    @torch.inference_mode()
    def _detect(self, photos: Sequence[Photo]) -> list[Detections]:
        """Objects of photos whose inputs have one padded size."""
        samples = [
            DetDataSample(
                metainfo={
                    "img_shape": tuple(photo.inputs.shape[-2:]),
                    "ori_shape": tuple(photo.pixels.shape[-2:]),
                }
            )
            for photo in photos
        ]
        data = self.network.data_preprocessor(
            {"inputs": [photo.inputs for photo in photos], "data_samples": samples}
        )
        found = self.network.predict(data["inputs"], data["data_samples"])
        return [self._detections(sample.pred_instances, sample.ori_shape) for sample in found]

    def _detections(self, instances: Any, image_hw_px: tuple[int, int]) -> Detections:
        scores, labels = instances.scores.cpu().numpy(), instances.labels.cpu().numpy()
        kept = np.flatnonzero((scores >= self.min_score) & (instances.masks.areas > 0))
        kept = kept[np.argsort(-scores[kept], kind="stable")]
        masks = instances.masks.select(kept)
        if self.nms_iou is not None:
            same = np.zeros(len(kept), np.int64)  # whatever the class, as in refine
            first = keep_first(same_class_iou(same, masks, same, masks) >= self.nms_iou)
            kept, masks = kept[first], masks.select(np.array(first, np.int64))
        return Detections(image_hw_px, masks, labels[kept], scores[kept])
