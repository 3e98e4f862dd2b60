"""From a batch of loaded images to the student's input: ARP, photometric augmentation, normalization."""

from typing import Any, get_args

import torch
from mmdet.structures import SampleList
from mmengine.structures import InstanceData
from torch import Tensor

from s4m_pipeline.config.student import ArpOptions, PhotometricOptions
from s4m_pipeline.models.head import as_tensors
from s4m_pipeline.models.mask2former import ChannelsPreprocessor
from s4m_pipeline.student.arp import LabeledImages, paste_instances
from s4m_pipeline.student.photometric import strong_augment
from s4m_pipeline.student.two_branches import Branch


class AugmentingPreprocessor(ChannelsPreprocessor):
    """mmdet's preprocessor, which in training also augments images of the batch.

    The order is the paper's (section 3.3): geometry (while loading), ARP, photometric augmentation; then all
    images are normalized, once. In the paper only unlabeled images are augmented here. Instances are pasted
    between images of one branch only. In training the masks of all samples become tensors (N, H, W) bool on
    the device, and `ignored`, where a sample has it, one of (H, W).

    Args:
        labeled: fraction of the labeled images that are augmented; samples without a branch are labeled.
        arp: which instances are pasted, and where.
        photometric: strength and probabilities of the photometric augmentation.
        channels: arguments of `ChannelsPreprocessor`.
    """

    def __init__(
        self,
        *,
        labeled: float = 0.0,
        arp: ArpOptions,
        photometric: PhotometricOptions,
        **channels: Any,
    ) -> None:
        super().__init__(**channels)
        self.labeled = labeled
        self.arp = arp
        self.photometric = photometric

    def padded(self, data: dict[str, Any], training: bool) -> dict[str, Any]:
        """Padded images (B, 3, H, W), with a depth map (B, 4, H, W), float32 in 0..255 and augmented."""
        if not training:
            return super().padded(data, training)
        data, by_branch = self._on_device(data)
        # The training's autocast is already on, and would blur in reduced precision.
        with torch.autocast(data["inputs"].device.type, enabled=False):
            self._augment(data, by_branch["unlabeled"])
            labeled = by_branch["labeled"]
            self._augment(data, labeled[: round(self.labeled * len(labeled))])
        return data

    def unlabeled_images(self, data: dict[str, Any]) -> LabeledImages:
        """The unlabeled images of a loaded batch as they are before ARP."""
        data, by_branch = self._on_device(data)
        unlabeled = by_branch["unlabeled"]
        return labeled_images(data["inputs"][unlabeled], [data["data_samples"][i] for i in unlabeled])

    def _on_device(self, data: dict[str, Any]) -> tuple[dict[str, Any], dict[Branch, list[int]]]:
        """A training batch on the device with pixels in 0..255, and the indices of each branch."""
        data = super().padded(data, True)
        for sample in data["data_samples"]:
            sample.gt_instances = as_tensors(sample.gt_instances, data["inputs"].device)
            if "ignored" in sample:
                packed = sample.ignored.pad(sample.batch_input_shape)
                sample.ignored = packed.to_tensor(torch.bool, data["inputs"].device)[0]
        branches = [sample.get("branch", "labeled") for sample in data["data_samples"]]
        names = get_args(Branch)
        return data, {name: [i for i, branch in enumerate(branches) if branch == name] for name in names}

    def _augment(self, data: dict[str, Any], chosen: list[int]) -> None:
        """Replaces pixels and instances of these images."""
        if not chosen:
            return
        samples = [data["data_samples"][i] for i in chosen]
        images = paste_instances(labeled_images(data["inputs"][chosen], samples), self.arp)
        for sample, masks, labels, weights, ignored in zip(
            samples, images.masks, images.labels, images.weights, images.ignored, strict=True
        ):
            sample.gt_instances = InstanceData(labels=labels, masks=masks, weights=weights)
            if ignored is not None:
                sample.ignored = ignored
        pixels = strong_augment(images.pixels_B3HW, images.sizes_hw, self.photometric)
        data["inputs"][chosen] = pixels * 255


def labeled_images(inputs_B3HW: Tensor, samples: SampleList) -> LabeledImages:
    """Images (B, 3 or 4, H, W) in 0..255 with the masks and labels of their samples, and what they ignore."""
    return LabeledImages(
        # Augmentation while loading may leave the range, where color conversion gives NaN.
        pixels_B3HW=(inputs_B3HW / 255).clamp(0, 1),
        sizes_hw=[tuple(sample.img_shape[:2]) for sample in samples],
        masks=[sample.gt_instances.masks for sample in samples],
        labels=[sample.gt_instances.labels for sample in samples],
        weights=[sample.gt_instances.weights for sample in samples],
        ignored=[sample.get("ignored") for sample in samples],
    )
