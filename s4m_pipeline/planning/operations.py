"""Operations of the networks, counted with torch's `FlopCounterMode`, and their seconds at a `Speed`.

Losses, sampling and deformable attention are not matrix products or convolutions, and are not counted.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from s4m_pipeline.config.experiment import Options
from s4m_pipeline.config.groups import TrainOptions
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.planning.estimates import GB, is_small, training_pixels


class Gpu(NamedTuple):
    """Peak figures of a GPU."""

    flop_per_s: float
    """Matrix products in bf16, sums in fp32, without sparsity."""
    bytes_per_s: float
    """Of its memory."""
    memory_bytes: float


GPUS = {
    "h200": Gpu(989e12, 4.8e12, 141e9),
    "h100": Gpu(989e12, 3.35e12, 80e9),
    "a100": Gpu(312e12, 2.04e12, 80e9),
    "l40s": Gpu(362e12, 0.864e12, 48e9),
    "a6000": Gpu(155e12, 0.768e12, 48e9),
    "3090": Gpu(71e12, 0.936e12, 24e9),
}
"""By NVIDIA's data sheets of the H200 SXM, H100 SXM, A100 SXM with 80 GB, L40S and RTX A6000, and its white
paper on the GA102."""


class Speed(NamedTuple):
    """Speeds of one device."""

    origin: str
    training: float
    """FLOP/s of the network, forward and backward."""
    forward: float
    sam: float
    """Of SAM 2."""
    bytes_per_s: float | None = None
    memory_bytes: float | None = None


def peak_of(gpu: str) -> Speed:
    """The peak of a GPU of `GPUS`.

    Raises:
        UserError: for another name.
    """
    if gpu not in GPUS:
        raise UserError(f"--gpu {gpu}: unknown. Expected one of {', '.join(GPUS)}.")
    flop_per_s, bytes_per_s, memory_bytes = GPUS[gpu]
    return Speed(f"peak of {gpu}", flop_per_s, flop_per_s, flop_per_s, bytes_per_s, memory_bytes)


def measured_speed(path: Path) -> Speed:
    """The speeds in a file of `s4m bench limits --json`, or of all benchmarks.

    Raises:
        UserError: if it has none.
    """
    try:
        (table,) = json.loads(path.read_text())["limits"]["results"]
        speeds = []
        for name in ("network, forward and backward", "network, forward,", "SAM's encoder"):
            gflop, seconds = next(row[1:3] for row in table["rows"] if row[0].startswith(name))
            speeds.append(1e9 * float(gflop) / float(seconds))
        return Speed(f"{table['title']}, {path.name}", *speeds)
    except (OSError, ValueError, KeyError, TypeError, IndexError, StopIteration, ZeroDivisionError) as error:
        raise UserError(
            f"--bench {path}: no table of `s4m bench limits` in it ({type(error).__name__}: {error}).\n"
            f"Make one: s4m bench limits --json {path}"
        ) from error


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
