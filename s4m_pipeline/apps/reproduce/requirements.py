"""What a reproduction needs and this machine lacks, found in a moment: raw files and weights."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from s4m_pipeline.config.published import Benchmark
from s4m_pipeline.config.sam_files import local_weights
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.core.paths import STUDENT, TEACHER, torch_checkpoints
from s4m_pipeline.data.cityscapes.layout import PHOTO_ENDING, require_layout

SAM = "facebook/sam2.1-hiera-large"
SAM_FILE = "sam2.1_hiera_large.pt"
RESNET_FILE = "resnet50-0676ba61.pth"
"""What `torchvision://resnet50` stands for: torchvision's first ImageNet weights, not its newer ones."""
PHOTOS = {"leftImg8bit/train": 2_975, "leftImg8bit/val": 500, "train2017": 118_287, "val2017": 5_000}
"""How many photos the folders of both data sets hold."""

_COCO_PACKAGES = {
    "train2017": "http://images.cocodataset.org/zips/train2017.zip",
    "val2017": "http://images.cocodataset.org/zips/val2017.zip",
    "annotations": "http://images.cocodataset.org/annotations/annotations_trainval2017.zip",
}


def released_networks(folder: Path, trained: Sequence[str]) -> dict[str, str]:
    """Published networks of a folder by stage, as `find_weights` takes them.

    Args:
        trained: stages that are trained here, of which no published network is taken.

    Raises:
        UserError: if there is none, or no teacher to train from.
    """
    found = {
        stage: f"{path}#{stage}"
        for stage in (TEACHER, STUDENT)
        if stage not in trained and (path := folder / f"{stage}.pth").is_file()
    }
    if not found or (trained and TEACHER not in found):
        wanted = f"{folder / TEACHER}.pth" + ("" if trained else f" or {folder / STUDENT}.pth")
        raise UserError(
            f"--released {folder}: no published network there.\nExpected {wanted}: fetch the checkpoints "
            "that the authors' repository (cvlab-kaist/S4M) names for this percentage, and rename them."
        )
    return found


def require_all(benchmark: Benchmark, root: Path, changed: Mapping[str, str], *, trains: bool = True) -> None:
    """Check that data and weights are there.

    Args:
        changed: settings that are not the config's; weights that others replace are not needed.
        trains: whether anything is trained, which needs weights.

    Raises:
        UserError: one message with everything that is missing, where to get it and where to put it.
    """
    missing = [*_missing_data(benchmark, root), *(_missing_weights(changed) if trains else ())]
    if missing:
        points = "\n".join("- " + point.replace("\n", "\n  ") for point in missing)
        raise UserError(
            f"{benchmark.title} cannot be reproduced yet; missing:\n{points}\n"
            "Then repeat the command. --profile smoke tries all of it without these files, on drawn photos."
        )


def _missing_data(benchmark: Benchmark, root: Path) -> Iterator[str]:
    if benchmark.name == "cityscapes":
        try:
            require_layout(root)
        except UserError as error:
            yield f"Data: {error}"
            return
    else:
        wanted = {
            "train2017": root / benchmark.train_images,
            "val2017": root / benchmark.val_images,
            "annotations": root / benchmark.train_json,
        }
        absent = [f"{_COCO_PACKAGES[name]} (no {path})" for name, path in wanted.items() if not path.exists()]
        if not absent and not (root / benchmark.val_json).exists():
            absent = [f"{_COCO_PACKAGES['annotations']} (no {root / benchmark.val_json})"]
        if absent:
            yield "Data: fetch and unpack in {}:\n{}".format(root, "\n".join(absent))
            return
    if (root / "miniature.json").is_file():
        yield f"Data: {root} holds the drawn miniature. Name another folder."
        return
    for folder in (benchmark.train_images, benchmark.val_images):
        found = _count_photos(root / folder)
        if found != PHOTOS[folder]:
            expected = f"{PHOTOS[folder]:,} expected"
            yield f"Data: {root / folder} holds {found:,} photos, {expected}: unpack it again."


def _count_photos(folder: Path) -> int:
    """Photos in a folder of COCO's, or in the folders of cities in one of Cityscapes'."""
    jpegs = sum(path.suffix == ".jpg" for path in folder.iterdir())
    return jpegs or sum(1 for _ in folder.glob(f"*/*{PHOTO_ENDING}"))


def _missing_weights(changed: Mapping[str, str]) -> Iterator[str]:
    sam = Path(changed.get("sam.weights_dir", "weights")).absolute() / SAM_FILE
    if "sam.model" not in changed and local_weights(SAM, sam.parent) is None:
        yield (
            f"SAM 2.1 Hiera-L (0.9 GB): neither {sam} nor in the hub's cache.\n"
            f"Fetch https://huggingface.co/{SAM}/resolve/main/{SAM_FILE}\n"
            f"or: hf download {SAM} {SAM_FILE} --local-dir {sam.parent}"
        )
    resnet = torch_checkpoints() / RESNET_FILE
    needed = not {"teacher.init_from", "student.init_from"} <= changed.keys()
    if needed and not resnet.is_file():
        yield (
            f"ResNet-50 (0.1 GB): no {resnet}.\n"
            f"Fetch https://download.pytorch.org/models/{RESNET_FILE} and put it there."
        )
