"""Settings of the student: both branches, ARP, strong augmentation, and the refresh of the labels."""

from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    ValidationInfo,
    field_validator,
)

from s4m_pipeline.config.base import AtLeastOne, Settings
from s4m_pipeline.config.groups import TrainOptions


def _rising(value: tuple[float, float], info: ValidationInfo) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError(f"{info.field_name}: {value} given, the smaller number first expected")
    return value


Probability = Annotated[float, Field(ge=0, le=1)]
Range = Annotated[tuple[PositiveFloat, PositiveFloat], AfterValidator(_rising)]


class ArpOptions(Settings):
    """ARP: instances of one unlabeled image are pasted into another (paper, section 3.3)."""

    fraction: Probability = 1.0
    """Fraction of the unlabeled images of a batch that are paired; the others stay as they are. 0: no ARP."""
    min_area_px: NonNegativeInt = 0
    """Smaller instances are not pasted; in pixels of the augmented image."""
    scale_range: Range = (1.0, 1.0)
    """Range from which the size factor of a pasted instance is drawn."""
    placement: Literal["same", "random"] = "same"
    """Paste where the instances were in their own image, or anywhere."""

    def num_pairs(self, num_images: int) -> int:
        """Pairs among the `num_images` unlabeled images of one iteration on one device."""
        # A little more than rounding error, so that 0.58 of 100 images are 58.
        return int(self.fraction * num_images / 2 + 1e-6)


class PhotometricOptions(Settings):
    """Strong photometric augmentation of the unlabeled images; the defaults are the paper's."""

    jitter: tuple[
        NonNegativeFloat, NonNegativeFloat, NonNegativeFloat, Annotated[float, Field(ge=0, le=0.5)]
    ] = (0.4, 0.4, 0.4, 0.1)
    """Strength of the changes of brightness, contrast, saturation and hue."""
    jitter_p: Probability = 0.8
    """Probability of the color jitter."""
    grey_p: Probability = 0.2
    """Probability of grayscale."""
    blur_sigma_px: Range = (0.1, 2.0)
    """Range of the Gaussian blur's standard deviation."""
    blur_p: Probability = 0.5
    """Probability of the blur."""


OWN_TEACHER = "teacher"
"""Value of `student.init_from` for the weights of the experiment's own teacher."""


class StudentOptions(TrainOptions):
    """Training of the student; `batch_size` counts labeled images."""

    init_from: str | None = None
    """As for the teacher; or `teacher`: the experiment's finished teacher."""
    unlabeled_batch_size: AtLeastOne
    """Unlabeled images per iteration, over all devices."""
    unlabeled_weight: NonNegativeFloat = 2.0
    """Weight of the loss on pseudo-labels beside that on labels (lambda_u)."""
    unlabeled_background: NonNegativeFloat = 0.1
    """Weight of "no object" in the loss on pseudo-labels; on labels it is 0.1. At 0, queries without a
    pseudo-label add nothing to the classification loss: objects that the teacher missed are not punished."""
    match_counts: bool = False
    """Take only the most confident pseudo-labels of each class: as many per unlabeled image as there are
    objects of the class per labeled one. The thresholds are new in each generation."""
    score_weights: bool = False
    """Weigh the class loss of a pseudo-label by the teacher's confidence in the class, and its mask losses by
    its estimated IoU: SAM's, or of the teacher's own mask its mean probability inside."""
    outline_weight: Probability = 1.0
    """Weight of the pixels on the outline of a pseudo-label in the cross-entropy of its mask, beside those
    inside and outside. Below 1, an outline that is off by some pixels does less harm."""
    outline_px: AtLeastOne = 4
    """Pixels to each side of an outline that `outline_weight` has an effect on."""
    source: Literal["cache", "labeled", "truth"] = "cache"
    """Images of the unlabeled branch: those of the cache; or the labeled ones with their annotations (the
    control experiment: the same training without unlabeled data); or truth: the unlabeled ones with the
    annotations of `refine.ground_truth` (an experiment that shows what they could bring at most)."""
    distill: bool = False
    """Structural distillation on the labeled images, with the settings of `sd` (whose `enabled` is the
    teacher's): an ablation. The paper's student is best without."""
    burn_in: NonNegativeInt = 0
    """Iterations with the fixed teacher's labels; from then on the EMA of the student's weights (`ema`) is
    the teacher."""
    refresh_every: AtLeastOne | None = None
    """Iterations between refreshes of the labels by the EMA teacher, the first one at the end of the burn-in.
    None: the labels stay, or come from another process (`s4m refine --follow`)."""
    gate: Literal["off", "warn", "reject"] = "reject"
    """What happens to refreshed labels that are clearly worse on the validation images than the last ones."""
    gate_drop: NonNegativeFloat = 2.0
    """Decrease of the panoptic quality, in percentage points, that counts as clearly worse."""
    keep_generations: AtLeastOne = 2
    """Generations of labels kept, including the current one."""
    arp: ArpOptions = ArpOptions()
    """Pasting of instances between unlabeled images."""
    photometric: PhotometricOptions = PhotometricOptions()
    """Strong photometric augmentation of the unlabeled images."""

    @property
    def control(self) -> "StudentOptions":
        """The same training without unlabeled images."""
        return self.model_copy(update={"source": "labeled", "refresh_every": None})

    @field_validator("burn_in")
    @classmethod
    def _burn_in_fits(cls, value: int, info: ValidationInfo) -> int:
        most = info.data.get("iterations", value)
        if value > most:
            raise ValueError(f"burn_in: {value} given, at most iterations ({most}) expected")
        return value

    @field_validator("refresh_every")
    @classmethod
    def _can_refresh(cls, value: int | None, info: ValidationInfo) -> int | None:
        source = info.data.get("source", "cache")
        if value is not None and source != "cache":
            raise ValueError(f"refresh_every: {value} given, but source is {source!r}")
        if value is not None and info.data.get("ema", 0) is None:
            raise ValueError("ema: None given; refreshed labels come from the EMA teacher: a number expected")
        return value
