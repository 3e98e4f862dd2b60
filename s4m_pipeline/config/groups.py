"""The groups of settings that a config may hold; the student's are in `student.py`."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, ValidationInfo, field_validator

from s4m_cache.storage import is_remote
from s4m_pipeline.config.base import AtLeastOne, Settings
from s4m_pipeline.core.devices import own_cores
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.core.locations import cache_location, location
from s4m_pipeline.core.paths import CACHE

Split = Literal["val", "test"]
Logger = Literal["tensorboard", "wandb", "mlflow"]
PromptType = Literal["points", "points_softmax", "point_centre", "point_confident", "box", "mask"]


class DataOptions(Settings):
    """Where the images and their COCO annotations are. Relative paths start at `root`."""

    root: str
    """Folder of the data set, or an address of an object store (`s3://bucket/folder`)."""
    labeled: str
    """COCO JSON of the labeled training images; defines the class names and their order."""
    train_images: str
    """Folder of the training images, labeled and unlabeled."""
    val: str
    """COCO JSON of the validation images."""
    val_images: str
    """Folder of the validation images."""
    unlabeled: str | None = None
    """COCO JSON of the unlabeled training images, or a folder of images."""
    test: str | None = None
    """COCO JSON of the test images, used for the final evaluation only."""
    test_images: str | None = None
    """Folder of the test images."""
    depth: str | None = None
    """Name of a folder with a depth map for each image, which the network takes in: that of
    `ROOT/train/a.jpg` is `ROOT/<depth>/train/a.png`, a grayscale PNG of 16 bits. None: no depth."""

    @field_validator("test_images")
    @classmethod
    def _complete_test(cls, value: str | None, info: ValidationInfo) -> str | None:
        if (value is None) != (info.data.get("test", value) is None):
            raise ValueError("test and data.test_images: give both or neither")
        return value

    def path(self, relative: str) -> Path:
        """A path of this group, resolved against `root`.

        Raises:
            UserError: if `root` is an address that cannot be read.
        """
        root = location(self.root)
        return (root if is_remote(root) else root.expanduser()) / relative

    def split(self, name: Split) -> tuple[Path, Path]:
        """COCO JSON and image folder of a split.

        Raises:
            UserError: if the config does not name the split.
        """
        annotations, images = (self.val, self.val_images) if name == "val" else (self.test, self.test_images)
        if annotations is None or images is None:
            raise UserError(f"The config has no data.{name}.\nSet data.{name} and data.{name}_images.")
        return self.path(annotations), self.path(images)


class TrainOptions(Settings):
    """Length, batch size and precision of a training."""

    iterations: AtLeastOne
    """Optimizer steps in total."""
    batch_size: AtLeastOne
    """Images per iteration, over all devices."""
    accumulate: AtLeastOne = 1
    """Parts that each device computes its images in, one after the other, in less memory. One device with
    `accumulate=4` learns what four devices do, up to rounding."""
    workers: NonNegativeInt = 2
    """Loader processes per device; 0 loads in the main process. Does not change the result."""
    seed: NonNegativeInt = 0
    """Seed of initial weights, image order, augmentation and sampled points."""
    deterministic: bool = False
    """Use deterministic kernels only, so that a GPU repeats a run exactly; slower."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of forward and backward passes on a GPU; a CPU always computes in fp32."""
    ema: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Decay of the EMA (exponential moving average) of the weights; 0.99 averages about 100 iterations.
    None: no EMA."""
    init_from: str | None = None
    """Initial weights: a .safetensors or .pth file, a published network (`mmdet://NAME`, or a name of Hugging
    Face's hub), `torchvision://NAME` (backbone only), or `small`: those shipped for the small network of the
    demo. None: random."""
    validate_every: AtLeastOne = 5000
    """Iterations between validations; the last iteration is always validated."""
    checkpoint_every: AtLeastOne = 1000
    """Iterations between checkpoints; the last iteration is always saved."""
    keep_checkpoints: Annotated[int, Field(ge=2)] = 2  # the oldest is removed before the newest is written
    """Number of latest checkpoints kept."""
    keep: Literal["best", "last"] = "last"
    """The final weights: those of the last iteration, as in the paper, or of the validation with the highest
    AP, whose score is then too high by a little, as it was chosen."""
    patience: AtLeastOne | None = None
    """Validations without a higher AP after which the training ends. None: it never ends early."""
    log_every: AtLeastOne = 50
    """Iterations averaged in one line of metrics.jsonl."""
    logger: tuple[Logger, ...] = ()
    """Write the metrics also for these: tensorboard, wandb, mlflow (each a package to be installed)."""
    rank_timeout_s: AtLeastOne = 600
    """On several devices: seconds after which a process stops waiting for another one."""


class TeacherOptions(TrainOptions):
    """Training of the teacher."""

    augmented_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Fraction of the images of a batch that are augmented as the student's unlabeled images are: instances
    are pasted between them (`student.arp`), and their colors change (`student.photometric`). With few labeled
    images, 0.5 makes a longer training worth while; 0 in the paper."""


class SamOptions(Settings):
    """Which SAM 2 is used, and its batch sizes."""

    model: str = "facebook/sam2.1-hiera-large"
    """A hub name, `nano` (shipped), or a .pt or .safetensors file with its YAML beside it."""
    config: str | None = None
    """YAML of a local file; None: the one beside it, or the official one if the file has an official name."""
    weights_dir: str = "weights"
    """Folder searched for a hub model's file before it is downloaded."""
    encoder_batch: AtLeastOne | None = None
    """Images per encoder pass; None: 16 on a GPU, 1 on a CPU."""
    decoder_chunk: AtLeastOne | None = None
    """Prompts per decoder pass; None: 128 on a GPU, 4 on a CPU."""
    compile: bool = False
    """Compile encoder and decoder with few shapes (`torch.compile`)."""


class SdOptions(Settings):
    """Structural distillation (SD): the teacher also learns SAM's layout (paper, section 3.1)."""

    enabled: bool = False
    """False: the purely supervised teacher."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Weight of the SD loss beside the supervised losses."""
    points: AtLeastOne = 128
    """Query points per image, half of them on objects."""
    target: Literal["decoder", "encoder"] = "decoder"
    """SAM's image tokens after the mask decoder's two-way blocks, prompted by point, or the encoder's."""
    loss: Literal["structural", "feature"] = "structural"
    """Compare self-similarities, or the features themselves (with `target = encoder` only)."""

    @field_validator("loss")
    @classmethod
    def _feature_of_encoder(cls, value: str, info: ValidationInfo) -> str:
        if value == "feature" and info.data.get("target") == "decoder":
            raise ValueError("loss: 'feature' compares the encoder's features, target is 'decoder'")
        return value


class Recipe(Settings):
    """What pseudo-labels depend on besides teacher, SAM and image; the defaults are the paper's."""

    prompt: Literal["auto", PromptType] | None = "points"
    """How SAM is prompted for each mask. None: the teacher's masks are kept. auto: the kind of prompt that is
    best on the validation images."""
    accept: Literal["all", "calibrated"] = "all"
    """Which of SAM's masks are used. calibrated: for each label SAM's mask or the teacher's, whichever is
    more likely to be right, as learned from the validation images (at least 10 of them)."""
    ignore_below: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """With accept=calibrated: a label that matches an object of its class with less than this probability, as
    learned from the validation images, is ignored: in the student's loss it is neither an object nor
    background. 0: never."""
    points: AtLeastOne = 3
    """K: points drawn per mask, for `points` and `points_softmax`."""
    min_score: Annotated[float, Field(ge=0, lt=1)] = 0.7
    """Class confidence that a query must exceed."""
    min_soft_area: float = 5.0
    """Sum of a mask's probabilities that a query must exceed, in cells of the teacher's stride-4 mask."""
    nms_iou: Annotated[float, Field(gt=0, le=1)] | None = None
    """Drop a query whose mask overlaps a more confident one's with at least this IoU. None: keep all."""
    min_mask_score: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Mean probability of the teacher's mask inside it that a query must exceed."""
    augmented: bool = False
    """Test-time augmentation: the teacher's probabilities are means over six views of the image: in its size,
    three quarters and one and a half of it, each of them also mirrored."""
    seed: NonNegativeInt = 0
    """With the generation and the image id, decides which points are drawn."""

    @field_validator("ignore_below")
    @classmethod
    def _ignored_by_calibration(cls, value: float, info: ValidationInfo) -> float:
        if value and info.data.get("accept") == "all":
            raise ValueError(f"ignore_below: {value:g} given, but accept is 'all': 'calibrated' expected")
        return value


class RefineOptions(Recipe):
    """How pseudo-labels are made, and with which batch size and workers."""

    batch_size: AtLeastOne = 8
    """Images per pass of the teacher."""
    workers: NonNegativeInt | None = None
    """Processes that decode images; 0 decodes in the main process; None: one per core, at most 8."""
    max_unreadable: NonNegativeInt = 10
    """Images per shard that may be missing or damaged: they get no labels and are listed."""
    ground_truth: str | None = None
    """COCO JSON with annotations of the unlabeled images, to evaluate the labels; trained on only by the
    experiment `student.source="truth"`."""

    @property
    def loaders(self) -> int:
        """Processes that decode images."""
        return min(own_cores(), 8) if self.workers is None else self.workers


class TileOptions(Settings):
    """Large images: those larger than a tile are predicted and refined tile by tile."""

    size_px: Annotated[int, Field(ge=64, multiple_of=32)] | None = None
    """Side of the square tiles, in pixels of the network's input, that is after `test_pipeline`. None: images
    are not cut."""
    overlap_px: AtLeastOne | None = None
    """Pixels that neighboring tiles share; objects up to this size are seen whole. None: a quarter of the
    side."""

    @field_validator("overlap_px")
    @classmethod
    def _at_most_half(cls, value: int | None, info: ValidationInfo) -> int | None:
        size_px = info.data.get("size_px")
        if value is not None and size_px is not None and 2 * value > size_px:
            raise ValueError(f"overlap_px: {value} given, at most half of tiles.size_px={size_px} expected")
        return value

    @property
    def of_network(self) -> dict[str, int] | None:
        """What the network's `test_cfg` says; None: images are not cut."""
        if self.size_px is None:
            return None
        return {"size_px": self.size_px, "overlap_px": self.overlap_px or self.size_px // 4}


class CacheOptions(Settings):
    """Where and how pseudo-labels are stored."""

    root: str | None = None
    """Folder, or address on S3 (`s3://bucket/folder`); None: `cache` in the experiment's folder."""
    part_images: AtLeastOne = 256
    """Images per immutable part of the cache: at most so many are lost when a process is killed."""
    embeddings: bool = False
    """Keep SAM's image embeddings, so that later generations skip the encoder (8 MiB per image at 1024).
    Those of tiles are not kept: with `tiles.size_px` this has no effect."""
    embeddings_gb: float = 50.0
    """Disk space that the embeddings of all images may take, in GB."""

    @field_validator("embeddings")
    @classmethod
    def _on_a_disk(cls, value: bool, info: ValidationInfo) -> bool:
        if value and "://" in (info.data.get("root") or ""):
            raise ValueError("embeddings: True given, but cache.root is an address: expected a folder")
        return value

    def folder(self, experiment: Path) -> Path:
        """The cache of an experiment.

        Args:
            experiment: its folder.

        Raises:
            UserError: if `root` is an address that cannot be read.
        """
        return experiment / CACHE if self.root is None else cache_location(self.root)
