"""Settings of the student: both branches, ARP, strong augmentation, and the refresh of the labels."""

from dataclasses import dataclass, field
from typing import Literal

from s4m_pipeline.options.groups import TrainOptions
from s4m_pipeline.options.parsing import refuse


@dataclass(frozen=True, kw_only=True)
class ArpOptions:
    """ARP: instances of one unlabelled image are pasted into another (paper, section 3.3)."""

    fraction: float = 1.0
    """Share of the unlabelled images of a step that are paired; the rest stays as it is. 0: no ARP."""
    min_area_px: int = 0
    """Smaller instances are not pasted; in pixels of the augmented image."""
    scale_range: tuple[float, float] = (1.0, 1.0)
    """Range from which the size factor of what is pasted is drawn."""
    placement: Literal["same", "random"] = "same"
    """Paste where the instances were in their own image, or anywhere."""

    def __post_init__(self) -> None:
        faults = []
        if not 0 <= self.fraction <= 1:
            faults.append(f"fraction: {self.fraction} given, a number from 0 to 1 expected")
        if self.min_area_px < 0:
            faults.append(f"min_area_px: {self.min_area_px} given, at least 0 expected")
        low, high = self.scale_range
        if not 0 < low <= high:
            faults.append(f"scale_range: {self.scale_range} given, two rising numbers above 0 expected")
        refuse(faults)

    def num_pairs(self, num_images: int) -> int:
        """Pairs among so many unlabelled images, which are those of a step on one device."""
        # A little more than rounding error, so that 0.58 of 100 images are 58.
        return int(self.fraction * num_images / 2 + 1e-6)


@dataclass(frozen=True, kw_only=True)
class PhotometricOptions:
    """Strong augmentation of colours of the unlabelled images; the defaults are the paper's."""

    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
    """Strength of the changes of brightness, contrast, saturation and hue."""
    jitter_p: float = 0.8
    """Probability of the colour jitter."""
    grey_p: float = 0.2
    """Probability of greyscale."""
    blur_sigma_px: tuple[float, float] = (0.1, 2.0)
    """Range of the Gaussian blur's standard deviation."""
    blur_p: float = 0.5
    """Probability of the blur."""

    def __post_init__(self) -> None:
        faults = [
            f"{name}: {getattr(self, name)} given, a number from 0 to 1 expected"
            for name in ("jitter_p", "grey_p", "blur_p")
            if not 0 <= getattr(self, name) <= 1
        ]
        if min(self.jitter) < 0 or self.jitter[3] > 0.5:
            faults.append(f"jitter: {self.jitter} given, numbers from 0 (hue: to 0.5) expected")
        low, high = self.blur_sigma_px
        if not 0 < low <= high:
            faults.append(f"blur_sigma_px: {self.blur_sigma_px} given, two rising numbers above 0 expected")
        refuse(faults)


OWN_TEACHER = "teacher"
"""Value of `student.init_from` for the weights of the experiment's own teacher."""


@dataclass(frozen=True, kw_only=True)
class StudentOptions(TrainOptions):
    """Training of the student; `batch_size` counts labelled images."""

    init_from: str | None = None
    """As for the teacher; or `teacher`: the experiment's finished teacher."""
    unlabeled_batch_size: int
    """Unlabelled images per step, on all devices together."""
    unlabeled_weight: float = 2.0
    """Weight of the loss on pseudo-labels beside that on labels (lambda_u)."""
    unlabeled_background: float = 0.1
    """Weight of "no object" in the loss on pseudo-labels; on labels it is 0.1. At 0 the student is told what
    is there, and not that nothing is where the teacher saw nothing."""
    source: Literal["cache", "labeled"] = "cache"
    """Images of the unlabelled branch: those of the cache, or the labelled ones with their annotations, which
    is the control experiment: the same training without unlabelled data."""
    distill: bool = False
    """Structural distillation on the labelled images, with the settings of `sd` (whose `enabled` is the
    teacher's): an ablation. The paper's student is best without."""
    burn_in: int = 0
    """Steps with the fixed teacher's labels; then the teacher is the student, and from there its average
    (`ema`)."""
    refresh_every: int | None = None
    """Steps between refreshes of the labels by the averaged teacher, the first one at the end of the burn-in.
    None: the labels stay, or come from another process (`s4m refine --follow`)."""
    gate: Literal["off", "warn", "reject"] = "reject"
    """What becomes of refreshed labels that are clearly worse on the validation images than those before."""
    gate_drop: float = 2.0
    """How much worse is clearly worse, in points of panoptic quality (percent)."""
    keep_generations: int = 2
    """Generations of labels kept, the current one included."""
    arp: ArpOptions = field(default_factory=ArpOptions, metadata={"group": ArpOptions})
    """Pasting of instances between unlabelled images."""
    photometric: PhotometricOptions = field(
        default_factory=PhotometricOptions, metadata={"group": PhotometricOptions}
    )
    """Strong augmentation of the unlabelled images."""

    def __post_init__(self) -> None:
        least = {
            "unlabeled_batch_size": 1,
            "unlabeled_weight": 0,
            "unlabeled_background": 0,
            "burn_in": 0,
            "gate_drop": 0,
            "keep_generations": 1,
        }
        faults = [
            f"{name}: {getattr(self, name)} given, at least {value} expected"
            for name, value in least.items()
            if getattr(self, name) < value
        ]
        if self.burn_in > self.iterations:
            faults.append(f"burn_in: {self.burn_in} given, at most iterations ({self.iterations}) expected")
        if self.refresh_every is not None and self.refresh_every < 1:
            faults.append(f"refresh_every: {self.refresh_every} given, at least 1 (or None) expected")
        if self.refresh_every is not None and self.ema is None:
            faults.append("ema: None given; refreshed labels come from the average: a number expected")
        if self.refresh_every is not None and self.source != "cache":
            faults.append(f"refresh_every: {self.refresh_every} given, but source is {self.source!r}")
        refuse(faults + self.faults())
