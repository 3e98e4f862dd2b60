"""Sizes of an experiment, fitted to the images, the number of labels and the device's memory.

The estimate of memory is arithmetic, not a measurement on a GPU. Counted on the CPU (256, 384, 512 px), one
training image of c x c pixels with ten instances keeps 0.40 GB + 5.9 kB x c^2 for the backward pass of
Mask2Former with ResNet-50 in fp32; mixed precision is taken as 0.65 of that. Weights, gradients and the two
moments of AdamW are 16 bytes for each of 44 million weights, the average 4; a gigabyte is left to the driver,
and a tenth of the memory stays free. A step of the student holds labelled and unlabelled images together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

GB = 10**9
_WEIGHT_BYTES = 44_000_000 * (16 + 4) + GB
_MIXED_PRECISION = 0.65
_SAM_BYTES = 8 * GB
"""Set aside for SAM 2 while a teacher learns from it too; not measured."""
_CROPS_PX = (1024, 896, 768, 640, 512, 384, 256)
_LARGEST_BATCH = 16
_MIN_SOFT_AREA = 5.0


@dataclass(frozen=True, kw_only=True)
class Device:
    """What the experiment will run on."""

    memory_bytes: int | None
    """Of the smallest GPU; None: no GPU."""
    bfloat16: bool = True
    """Whether the GPU computes in bfloat16."""

    def __str__(self) -> str:
        return "a CPU" if self.memory_bytes is None else f"a GPU of {self.memory_bytes / GB:.0f} GB"


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The sizes of an experiment; all images of a step count for a batch size, those of all devices."""

    small: bool
    """The demo's network and the nano SAM 2, for trying things out without a GPU."""
    sam: str
    encoder_batch: int | None
    decoder_chunk: int | None
    distil: bool
    """Structural distillation: SAM 2 runs in every step of the teacher."""
    precision: str
    short_px: int
    """Shorter side that images are scaled to."""
    long_px: int
    """Longer side that they may have at most then."""
    crop_px: int
    """Side of the square that is cut out for training."""
    batch_size: int
    unlabeled_batch_size: int
    """As many, but no more than there are images, and two at least: ARP exchanges objects within pairs."""
    iterations: int
    """Of the teacher."""
    student_iterations: int
    burn_in: int
    """Steps of the student with the fixed teacher's labels."""
    refresh_every: int
    """Enough to draw every unlabelled image once, as each refresh labels them all."""
    ema: float
    """Share of the old average that a step keeps: the window is the paper's part of the training (2,500 steps
    of 90,000)."""
    num_queries: int | None
    """Objects that the network can find in an image; None: as many as it has by itself are enough."""
    min_soft_area: float
    """Smaller masks are no pseudo-labels, in cells of 4 x 4 pixels: the paper's 5, and less where objects are
    small."""


def fit(
    sizes_px: Sequence[tuple[int, int]],
    num_labeled: int,
    num_unlabeled: int,
    most_objects: int,
    small_object_px: float,
    device: Device,
) -> Fit:
    """Choose all sizes.

    Args:
        sizes_px: width and height of every image, or of a sample.
        num_labeled: labelled images that are trained on.
        num_unlabeled: unlabelled images that are trained on.
        most_objects: in one image.
        small_object_px: area of small objects, in pixels of their files.
    """
    short, long = _median_sides(sizes_px)
    if device.memory_bytes is None:
        sizes = _fit_cpu(short, long, num_labeled, num_unlabeled, most_objects)
    else:
        sizes = _fit_gpu(short, long, num_labeled, num_unlabeled, most_objects, device, device.memory_bytes)
    cells = small_object_px * (sizes.short_px / short) ** 2 / 16
    return replace(sizes, min_soft_area=round(min(max(cells / 2, 0.5), _MIN_SOFT_AREA), 1))


def bytes_per_image(crop_px: int) -> float:
    """What one training image of this side occupies in mixed precision, estimated (see above)."""
    return _MIXED_PRECISION * (0.40 * GB + 5_900 * crop_px**2)


def _median_sides(sizes_px: Sequence[tuple[int, int]]) -> tuple[float, float]:
    return median(min(size) for size in sizes_px), median(max(size) for size in sizes_px)


def _unlabeled_batch(batch_size: int, num_unlabeled: int) -> int:
    return max(min(batch_size, num_unlabeled), 2)


def _pass_steps(num_unlabeled: int, batch_size: int) -> int:
    """Steps that draw every unlabelled image once."""
    return -(-num_unlabeled // _unlabeled_batch(batch_size, num_unlabeled))


def _queries(most_objects: int, there_are: int) -> int | None:
    """Half as many again as the fullest image has objects, in tens, if that is more than there are."""
    wanted = -(-3 * most_objects // 20) * 10
    return wanted if wanted > there_are else None


def _fit_cpu(short: float, long: float, num_labeled: int, num_unlabeled: int, most_objects: int) -> Fit:
    """Two cores: images as small as the demo's, a few hundred steps, minutes."""
    short_px = _multiple(min(max(short, 96), 160), 32)
    iterations = min(max(50 * num_labeled // 8, 200), 400)
    return Fit(
        small=True,
        sam="nano",
        encoder_batch=None,
        decoder_chunk=None,
        distil=False,
        precision="fp32",
        short_px=short_px,
        long_px=_multiple(short_px * min(long / short, 3.0), 32),
        crop_px=short_px,
        batch_size=8,
        unlabeled_batch_size=_unlabeled_batch(8, num_unlabeled),
        iterations=iterations,
        student_iterations=3 * iterations // 2,
        burn_in=iterations // 2,
        refresh_every=max(iterations // 2, _pass_steps(num_unlabeled, 8)),
        ema=0.99,
        num_queries=_queries(most_objects, 15),
        min_soft_area=_MIN_SOFT_AREA,
    )


def _fit_gpu(
    short: float,
    long: float,
    num_labeled: int,
    num_unlabeled: int,
    most_objects: int,
    device: Device,
    memory_bytes: int,
) -> Fit:
    """Images near their own size, the largest crop of which two labelled and two unlabelled ones fit.

    Burn-in and refresh take the paper's shares of the training (15,000 and 5,000 of 90,000 steps), as far as
    the number of unlabelled images lets them.
    """
    distil = memory_bytes >= 24 * GB
    room = 0.9 * memory_bytes - _WEIGHT_BYTES - (_SAM_BYTES if distil else 0)
    short_px = _multiple(min(max(short, 512), 1024), 32)
    crops = [crop for crop in _CROPS_PX if crop <= short_px]
    crop_px = next((crop for crop in crops if room >= 4 * bytes_per_image(crop)), crops[-1])
    batch_size = int(min(max(room / (2 * bytes_per_image(crop_px)), 1), _LARGEST_BATCH))
    iterations = min(max(_multiple(100 * num_labeled / batch_size, 1000), 5_000), 90_000)
    roomy = memory_bytes >= 16 * GB
    return Fit(
        small=False,
        sam="facebook/sam2.1-hiera-large" if roomy else "facebook/sam2.1-hiera-small",
        encoder_batch=None if roomy else 4,
        decoder_chunk=None if roomy else 32,
        distil=distil,
        precision="bf16" if device.bfloat16 else "fp16",
        short_px=short_px,
        long_px=_multiple(short_px * min(long / short, 3.0), 32),
        crop_px=crop_px,
        batch_size=batch_size,
        unlabeled_batch_size=_unlabeled_batch(batch_size, num_unlabeled),
        iterations=iterations,
        student_iterations=iterations,
        burn_in=iterations // 6,
        refresh_every=max(iterations // 18, _pass_steps(num_unlabeled, batch_size)),
        ema=round(1 - 36 / iterations, 4),
        num_queries=_queries(most_objects, 100),
        min_soft_area=_MIN_SOFT_AREA,
    )


def _multiple(value: float, step: int) -> int:
    """The multiple of `step` nearest to `value`, at least one."""
    return max(round(value / step), 1) * step
