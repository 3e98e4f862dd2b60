"""Operations of the networks, counted with torch's `FlopCounterMode`, and their seconds at a `Speed`.

Losses, sampling and deformable attention are not matrix products or convolutions, and are not counted.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from s4m_pipeline.config.experiment import Options
from s4m_pipeline.config.groups import TrainOptions
from s4m_pipeline.planning.estimates import GB, is_small, training_pixels
from s4m_pipeline.planning.speeds import Speed


class SamFlop(NamedTuple):
    """FLOP of a SAM 2."""

    encoder: float
    """For each image."""
    prompt: float
    point: float
    """Of structural distillation."""


NETWORK_FLOP = {
    "small": 1.4e4,
    "ResNet-50": 5.0e5,
    "SwinTransformer-96-2-2-6-2": 5.2e5,
    "SwinTransformer-128-2-2-18-2": 1.03e6,
}
"""For each pixel, forward; by type, width and depths of the backbone."""
SAM_FLOP = {
    "large": SamFlop(1823e9, 2.9e9, 1.46e9),
    "base-plus": SamFlop(647e9, 2.9e9, 1.46e9),
    "small": SamFlop(360e9, 2.9e9, 1.46e9),
    "tiny": SamFlop(292e9, 2.9e9, 1.46e9),
    "nano": SamFlop(0.73e9, 0.03e9, 0.018e9),
}
"""By the end of the name."""
PROMPTS = 20
"""Labels of an image, as in `estimates.LABEL_BYTES`."""
SAVED_BYTES = 2_480
"""What backward needs of ResNet-50's network in bf16, for each pixel (tests/test_fake_cuda.py). Taken
for other backbones as well."""
WEIGHT_BYTES = 0.9 * GB
"""Weights, gradients, the optimizer's moments and the EMA."""
_VIEWS = 2 * (1 + 0.75**2 + 1.5**2)
"""Pixels of the views of `refine.augmented`, as a multiple of the image's."""


class Counted(NamedTuple):
    """Seconds of one device for one image."""

    seconds: float
    limit: str
    """What takes them."""


def training_image(
    options: Options, config: Mapping[str, Any], speed: Speed, *, distilled: bool
) -> Counted | None:
    """Of one image of a training; None for networks that were not counted.

    Args:
        distilled: SAM 2 runs in each iteration.
    """
    pixels = training_pixels(config["train_pipeline"])
    if (flop := _network_flop(config)) is None:
        return None
    seconds = (4 if config.get("activation_checkpointing") else 3) * pixels * flop / speed.training
    if distilled:
        sam, sd = _sam_flop(options), options.sd
        seconds += (sam.encoder + (sd.points * sam.point if sd.target == "decoder" else 0)) / speed.sam
    if speed.bytes_per_s and not is_small(config):  # activations are written once, and read once
        traffic_s = 2 * pixels * SAVED_BYTES / speed.bytes_per_s
        if traffic_s > seconds:
            return Counted(traffic_s, "memory traffic of activations")
    return Counted(seconds, "operations of the networks")


def labeled_image(
    options: Options, config: Mapping[str, Any], speed: Speed, *, embedded: bool
) -> Counted | None:
    """Of the labels of one image; None for networks that were not counted.

    Args:
        embedded: its embedding is stored.
    """
    scaled = any("scale" in step for step in config["test_pipeline"])
    pixels = training_pixels(config["test_pipeline" if scaled else "train_pipeline"])
    if (flop := _network_flop(config)) is None:
        return None
    seconds = (_VIEWS if options.refine.augmented else 1) * pixels * flop / speed.forward
    if options.refine.prompt is not None:
        sam = _sam_flop(options)
        seconds += ((0 if embedded else sam.encoder) + PROMPTS * sam.prompt) / speed.sam
    return Counted(seconds, "operations of the networks")


def lacking_memory(
    training: TrainOptions, config: Mapping[str, Any], images: int, gpus: int, speed: Speed
) -> str:
    """What to do if the activations of an iteration do not fit into a GPU; empty if they do or are not known.

    Args:
        images: of an iteration, over all GPUs.
    """
    of_image = training_pixels(config["train_pipeline"]) * SAVED_BYTES
    needed = WEIGHT_BYTES + images / (gpus * training.accumulate) * of_image
    if speed.memory_bytes is None or is_small(config) or needed <= speed.memory_bytes:
        return ""
    return f"memory: {needed / GB:.0f} GB on each GPU; raise accumulate"


def _network_flop(config: Mapping[str, Any]) -> float | None:
    backbone = config["model"]["backbone"]
    sizes = [backbone.get("embed_dims"), backbone.get("depth"), *backbone.get("depths", [])]
    name = "-".join([backbone["type"], *(str(size) for size in sizes if size is not None)])
    return NETWORK_FLOP.get("small" if is_small(config) else name)


def _sam_flop(options: Options) -> SamFlop:
    """That of the configured SAM 2; of the large one, if it is not known."""
    name = options.sam.model
    return next((flop for end, flop in SAM_FLOP.items() if name.endswith(end)), SAM_FLOP["large"])
