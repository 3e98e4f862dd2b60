"""What an experiment is sized by, its sizes, and what they have in common with and without a GPU."""

from dataclasses import dataclass

GB = 10**9


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What an experiment is sized by, besides the device."""

    short_px: float
    """Median of the images' shorter sides."""
    long_px: float
    """Median of their longer sides."""
    num_labeled: int
    """Labeled images that are trained on."""
    num_val: int
    num_unlabeled: int
    most_objects: int
    """Maximum number of objects in one labeled image."""
    mean_objects: float
    small_object_px: float
    """10th percentile of the objects' areas, in pixels of their files."""

    @property
    def aspect(self) -> float:
        """Longer side by the shorter one; at most 3, beyond which images are shrunk further."""
        return min(self.long_px / self.short_px, 3.0)


@dataclass(frozen=True, kw_only=True)
class Device:
    """The device that the experiment is sized for."""

    memory_bytes: int | None
    """Of the smallest GPU; None: no GPU."""
    bfloat16: bool = True
    """Whether the GPU computes in bfloat16."""

    def __str__(self) -> str:
        return "a CPU" if self.memory_bytes is None else f"a GPU of {self.memory_bytes / GB:.0f} GB"


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The sizes of an experiment; batch sizes count the images of all devices."""

    small: bool
    """The demo's network, for a machine without a GPU."""
    start: str | None
    """Initial weights, which decide the backbone; None: those of the demo's network."""
    sam: str
    embeddings: bool
    """SAM's image embeddings are stored."""
    encoder_batch: int | None
    decoder_chunk: int | None
    distill: bool
    """Structural distillation: SAM 2 runs in every iteration of the teacher."""
    precision: str
    short_px: int
    """Shorter side that images are scaled to."""
    long_px: int
    """Maximum of their longer side."""
    crop_px: int
    """Side of the square training crop."""
    tile_px: int | None
    """Side of the tiles that images are cut into for predictions and labels; None: they are not cut."""
    batch_size: int
    unlabeled_batch_size: int
    """As `batch_size`, at most the number of images, at least two: ARP exchanges objects within pairs."""
    iterations: int
    """Of the teacher, and of the student."""
    burn_in: int
    """Iterations of the student with the fixed teacher's labels."""
    refresh_every: int
    """Enough to draw every unlabeled image once, as each refresh labels them all."""
    ema: float
    """Decay of the EMA: its window is the paper's fraction of the training (2,500 of 90,000 iterations)."""
    refine_batch: int | None = None
    """Whole images per pass of the teacher, for labels; None: the default."""
    num_queries: int | None
    """Objects that the network can find in an image; None: its default is enough."""
    min_soft_area: float
    """Minimum area of a pseudo-label in cells of 4 x 4 pixels: the paper's 5, less for small objects."""
    notes: tuple[str, ...] = ()
    """Reasons and warnings, a line each."""


def unlabeled_batch(batch_size: int, num_unlabeled: int) -> int:
    """As many unlabeled images as labeled ones, if there are; at least a pair for ARP."""
    return max(min(batch_size, num_unlabeled), 2)


def epoch_steps(num_unlabeled: int, batch_size: int) -> int:
    """Iterations that draw every unlabeled image once."""
    return -(-num_unlabeled // unlabeled_batch(batch_size, num_unlabeled))


def queries(most_objects: int, default: int) -> int | None:
    """1.5 times the maximum number of objects, rounded up to tens; None if the default is enough."""
    wanted = -(-3 * most_objects // 20) * 10
    return wanted if wanted > default else None


def min_soft_area(facts: Facts, short_px: int) -> float:
    """`Fit.min_soft_area` of images that are scaled to this shorter side: half of a small object at most."""
    cells = facts.small_object_px * (short_px / facts.short_px) ** 2 / 16
    return round(min(max(cells / 2, 0.5), 5.0), 1)


def multiple(value: float, step: int) -> int:
    """The multiple of `step` nearest to `value`, at least one."""
    return max(round(value / step), 1) * step
