"""From a batch of loaded samples to the student's input: ARP and strong augmentation on the device."""

from typing import Any

import torch
from mmdet.models import DetDataPreprocessor
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from mmengine.structures import InstanceData
from torch import Tensor

from s4m_pipeline.models.head import as_tensors
from s4m_pipeline.models.student import UNLABELED
from s4m_pipeline.options.student import ArpOptions, PhotometricOptions
from s4m_pipeline.student.arp import LabelledImages, paste_instances
from s4m_pipeline.student.photometric import strong_augment


@MODELS.register_module()
class StudentPreprocessor(DetDataPreprocessor):
    """mmdet's preprocessor, which in training augments the unlabelled images of the batch.

    The order is the paper's: geometry (when loading), ARP, then colours. Labelled images keep their colours.
    In training the masks of all samples become tensors (N, H, W) bool on the device.

    Args:
        arp: which instances are pasted, and where.
        photometric: how strongly colours change.
        preprocessing: arguments of mmdet's `DetDataPreprocessor`.
    """

    def __init__(self, *, arp: ArpOptions, photometric: PhotometricOptions, **preprocessing: Any) -> None:
        super().__init__(**preprocessing)
        self.arp = arp
        self.photometric = photometric

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """Normalised and padded images (B, 3, H, W), and their samples."""
        if not training:
            return super().forward(data, training)
        data, chosen = self._with_mask_tensors(data)
        if chosen:
            inputs, samples = data["inputs"], data["data_samples"]
            # The training's autocast is on already, and would blur in its precision.
            with torch.autocast(inputs.device.type, enabled=False):
                inputs[chosen] = self._augment(inputs[chosen], [samples[i] for i in chosen])
        return data

    def unlabeled_images(self, data: dict[str, Any]) -> LabelledImages:
        """The unlabelled images of a loaded batch, as they are before ARP."""
        data, chosen = self._with_mask_tensors(data)
        return self.labelled_images(data["inputs"][chosen], [data["data_samples"][i] for i in chosen])

    def labelled_images(self, inputs: Tensor, samples: SampleList) -> LabelledImages:
        """The network's input (B, 3, H, W) back in colours, with the masks and labels of its samples."""
        return LabelledImages(
            # Augmentation while loading may leave the range, where colour conversion gives NaN.
            pixels_B3HW=((inputs * self.std + self.mean) / 255).clamp(0, 1),
            sizes_hw=[tuple(sample.metainfo["img_shape"][:2]) for sample in samples],
            masks=[sample.gt_instances.masks for sample in samples],
            labels=[sample.gt_instances.labels for sample in samples],
        )

    def _with_mask_tensors(self, data: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
        """A batch on the device, and which images of it are unlabelled."""
        data = super().forward(data, True)
        for sample in data["data_samples"]:
            sample.gt_instances = as_tensors(sample.gt_instances, data["inputs"].device)
        branches = [sample.metainfo["branch"] for sample in data["data_samples"]]
        return data, [i for i, branch in enumerate(branches) if branch == UNLABELED]

    def _augment(self, inputs: Tensor, samples: SampleList) -> Tensor:
        """Changes the labels in `samples`, and returns the new images."""
        images = paste_instances(self.labelled_images(inputs, samples), self.arp)
        for sample, masks, labels in zip(samples, images.masks, images.labels, strict=True):
            sample.gt_instances = InstanceData(labels=labels, masks=masks)
        pixels = strong_augment(images.pixels_B3HW, images.sizes_hw, self.photometric)
        normalised = (pixels * 255 - self.mean) / self.std
        for image, (height, width) in zip(normalised, images.sizes_hw, strict=True):
            image[:, height:] = self.pad_value
            image[:, :, width:] = self.pad_value
        return normalised
