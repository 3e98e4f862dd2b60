"""A checkpoint that answers: image in, instances out."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet.structures import DetDataSample
from numpy.typing import NDArray

from s4m_pipeline.data.coco import CocoImage
from s4m_pipeline.data.images import read_rgb
from s4m_pipeline.engine.checkpoint import read_weights
from s4m_pipeline.errors import UserError
from s4m_pipeline.models.load import load_network, named_classes
from s4m_pipeline.options.experiment import load_experiment
from s4m_pipeline.refine.photos import (
    Photo,
    PhotoFiles,
    Unreadable,
    batches_by_size,
    load_photos,
    readable,
)


@dataclass(frozen=True, eq=False)
class Detections:
    """N objects of one image of H x W pixels, the most certain one first; each mask has a pixel at least.

    Attributes:
        masks: bool (N, H, W).
        labels: int64 (N,), index into `Predictor.classes`.
        scores: float32 (N,) in [0, 1]: class probability times mean mask probability inside the mask.
        boxes: float32 (N, 4), tight x0, y0, x1, y1 in pixels, x1 and y1 exclusive.
    """

    masks: NDArray[np.bool_]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]
    boxes: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.scores)


class Predictor:
    """The network of a config with the weights of a checkpoint.

    Predictions are those that `s4m evaluate` measures: computed in fp32, on images padded as they are alone.

    Args:
        config: the config that the checkpoint was trained with.
        checkpoint: .safetensors, or a training checkpoint .pth.
        overrides: texts `a.b=c` on top of the config.
        min_score: objects of a lower score are left out.
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
        _, self._parts = load_experiment(Path(config), overrides)
        weights = read_weights(Path(checkpoint), trust=trust_checkpoint)
        self.classes = named_classes(weights)
        self.network = load_network(self._parts, weights, len(self.classes), device)
        self.min_score = min_score

    def predict(self, image: str | Path | NDArray[np.uint8]) -> Detections:
        """The objects of one image: a file, or uint8 RGB (H, W, 3).

        Raises:
            ImageError: if the file cannot be read.
            UserError: if the array is of another kind.
        """
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
                raise UserError(f"expected uint8 RGB (H, W, 3), got {image.dtype} {image.shape}.")
            pixels = image.copy()
        else:
            pixels, _ = read_rgb(Path(image))
        (found,) = self._detect([self._files([]).photo(0, pixels)])
        return found

    def stream(
        self,
        images: Sequence[CocoImage],
        report: Callable[[Unreadable], None],
        *,
        batch_size: int = 1,
        workers: int = 0,
    ) -> Iterator[tuple[Photo, Detections]]:
        """Photos with their objects, a batch at a time; images of like shape follow one another.

        Args:
            images: files with the sizes they should have.
            report: called with each image that cannot be used.
            batch_size: photos per pass.
            workers: processes that decode images; 0 decodes in this one.
        """
        divisor = int(self.network.data_preprocessor.pad_size_divisor)
        photos = readable(load_photos(self._files(images), workers, pin_memory=False), report)
        for batch in batches_by_size(photos, batch_size, divisor):
            yield from zip(batch, self._detect(batch), strict=True)

    def _files(self, images: Sequence[CocoImage]) -> PhotoFiles:
        return PhotoFiles(images, self._parts["test_pipeline"])

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
        return [self._detections(sample.pred_instances) for sample in found]

    def _detections(self, instances: Any) -> Detections:
        kept = (instances.scores >= self.min_score) & instances.masks.flatten(1).any(1)
        instances = instances[kept]
        instances = instances[instances.scores.argsort(descending=True, stable=True)]
        return Detections(
            masks=instances.masks.cpu().numpy(),
            labels=instances.labels.cpu().numpy(),
            scores=instances.scores.cpu().numpy(),
            boxes=instances.bboxes.cpu().numpy(),
        )
