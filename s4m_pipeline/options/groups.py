"""The groups of settings that a config may hold, the student's apart."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from s4m_pipeline.errors import UserError
from s4m_pipeline.options.parsing import refuse
from s4m_pipeline.refine.recipe import Recipe

Split = Literal["val", "test"]


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Where the images and their COCO annotations are. Relative paths start at `root`."""

    root: str
    """Folder of the data set."""
    labeled: str
    """COCO JSON of the labelled training images; class names and their order are taken from it."""
    train_images: str
    """Folder of the training images, labelled and unlabelled."""
    val: str
    """COCO JSON of the validation images."""
    val_images: str
    """Folder of the validation images."""
    unlabeled: str | None = None
    """COCO JSON of the unlabelled training images, or a folder of images."""
    test: str | None = None
    """COCO JSON of the test images, looked at last."""
    test_images: str | None = None
    """Folder of the test images."""

    def __post_init__(self) -> None:
        faults = []
        if (self.test is None) != (self.test_images is None):
            faults.append("data.test and data.test_images: give both or neither")
        refuse(faults)

    def path(self, relative: str) -> Path:
        """A path of this group, resolved against `root`."""
        return Path(self.root).expanduser() / relative

    def split(self, name: Split) -> tuple[Path, Path]:
        """COCO JSON and image folder of a split.

        Raises:
            UserError: if the config does not name the split.
        """
        annotations, images = (self.val, self.val_images) if name == "val" else (self.test, self.test_images)
        if annotations is None or images is None:
            raise UserError(f"The config has no data.{name}.\nSet data.{name} and data.{name}_images.")
        return self.path(annotations), self.path(images)


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How long, on how much and how carefully a network is trained."""

    iterations: int
    """Optimizer steps in all."""
    batch_size: int
    """Images per step, on all devices together."""
    workers: int = 2
    """Processes per device that load images; 0 loads them in the main process. Does not change the result."""
    seed: int = 0
    """Decides initial weights, order and augmentation of the images, and sampled points."""
    deterministic: bool = False
    """Use only deterministic kernels, so that a GPU repeats a run exactly; slower."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of forward and backward passes on a GPU; a CPU always computes in fp32."""
    ema: float | None = None
    """Share of the old average that each step keeps (0.99: about the last 100 steps). None: no averaging."""
    init_from: str | None = None
    """Initial weights: a .safetensors or .pth file, or `torchvision://NAME` (backbone only). None: random."""
    validate_every: int = 5000
    """Steps between validations; the last step is always validated."""
    checkpoint_every: int = 1000
    """Steps between checkpoints; the last step is always saved."""
    keep_checkpoints: int = 2
    """Latest checkpoints kept, besides the best one."""
    log_every: int = 50
    """Steps that one line of metrics.jsonl averages over."""
    tensorboard: bool = False
    """Also write the metrics for TensorBoard (extra `tensorboard`)."""
    rank_timeout_s: int = 600
    """On several devices: seconds after which a process that waits for another one gives up."""

    def __post_init__(self) -> None:
        refuse(self.faults())

    def faults(self) -> list[str]:
        """What is wrong with these settings, one line each."""
        faults = [
            f"{name}: {getattr(self, name)} given, at least {least} expected"
            for name, least in _LEAST.items()
            if getattr(self, name) < least
        ]
        if self.ema is not None and not 0 <= self.ema < 1:
            faults.append(f"ema: {self.ema} given, a number from 0 to below 1 (or None) expected")
        return faults


_LEAST = {
    "iterations": 1,
    "batch_size": 1,
    "workers": 0,
    "seed": 0,
    "validate_every": 1,
    "checkpoint_every": 1,
    "keep_checkpoints": 2,  # the oldest goes before the newest is written
    "log_every": 1,
    "rank_timeout_s": 1,
}


@dataclass(frozen=True, kw_only=True)
class SamOptions:
    """Which SAM 2, and how much of it at a time."""

    model: str = "facebook/sam2.1-hiera-large"
    """A hub name, `nano` (shipped), or a .pt or .safetensors file with its YAML beside it."""
    config: str | None = None
    """YAML of a local file; None: the one beside it, or the official one if it bears an official name."""
    weights_dir: str = "weights"
    """Folder where a hub model's file is looked for before the hub is asked."""
    encoder_batch: int | None = None
    """Images per encoder pass; None: 16 on a GPU, 1 on a CPU."""
    decoder_chunk: int | None = None
    """Prompts per decoder pass; None: 128 on a GPU, 4 on a CPU."""
    compile: bool = False
    """Compile both passes with fixed shapes."""

    def __post_init__(self) -> None:
        refuse(
            [
                f"{name}: {value} given, at least 1 expected"
                for name in ("encoder_batch", "decoder_chunk")
                if (value := getattr(self, name)) is not None and value < 1
            ]
        )


@dataclass(frozen=True, kw_only=True)
class SdOptions:
    """Structural distillation: the teacher also learns SAM's layout (paper, section 3.1)."""

    enabled: bool = False
    """Off gives the purely supervised teacher."""
    weight: float = 1.0
    """Weight of the SD loss beside the supervised ones."""
    points: int = 128
    """Query points per image, half of them on objects."""
    target: Literal["decoder", "encoder"] = "decoder"
    """SAM's image tokens after the mask decoder's two-way blocks, prompted by point, or the encoder's."""
    loss: Literal["structural", "feature"] = "structural"
    """Compare self-similarities, or the features themselves (with `target = encoder` only)."""

    def __post_init__(self) -> None:
        faults = []
        if self.weight <= 0:
            faults.append(
                f"weight: {self.weight} given, a number above 0 expected (enabled=False turns SD off)"
            )
        if self.points < 1:
            faults.append(f"points: {self.points} given, at least 1 expected")
        if self.loss == "feature" and self.target != "encoder":
            faults.append(f"loss: 'feature' compares the encoder's features, target is {self.target!r}")
        refuse(faults)


@dataclass(frozen=True, kw_only=True)
class RefineOptions(Recipe):
    """How pseudo-labels are made, and how much of the machine is used for it."""

    batch_size: int = 8
    """Images per pass of the teacher."""
    workers: int = 2
    """Processes that decode images; 0 decodes in the main process."""
    max_unreadable: int = 10
    """Images per shard that may be missing or damaged: they get no labels and are listed."""
    ground_truth: str | None = None
    """COCO JSON with annotations of the unlabelled images, to measure the labels by; never trained on."""

    def __post_init__(self) -> None:
        least = {"points": 1, "seed": 0, "batch_size": 1, "workers": 0, "max_unreadable": 0}
        faults = [
            f"{name}: {getattr(self, name)} given, at least {value} expected"
            for name, value in least.items()
            if getattr(self, name) < value
        ]
        if not 0 <= self.min_score < 1:
            faults.append(f"min_score: {self.min_score} given, a number from 0 to below 1 expected")
        if self.nms_iou is not None and not 0 < self.nms_iou <= 1:
            faults.append(f"nms_iou: {self.nms_iou} given, a number above 0 up to 1 (or None) expected")
        refuse(faults)


@dataclass(frozen=True, kw_only=True)
class CacheOptions:
    """How pseudo-labels are stored between refine and the student."""

    part_images: int = 256
    """Images per immutable part: what a kill can lose at most."""
    embeddings: bool = False
    """Keep SAM's image embeddings, so that the next generation skips the encoder (8 MiB an image at 1024)."""
    embeddings_gb: float = 50.0
    """How much disk the embeddings of all images may take, in units of 10^9 bytes."""

    def __post_init__(self) -> None:
        if self.part_images < 1:
            refuse([f"part_images: {self.part_images} given, at least 1 expected"])
