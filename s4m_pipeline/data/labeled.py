"""The labeled training and validation images of an experiment."""

from s4m_pipeline.config.groups import DataOptions, Split
from s4m_pipeline.core import console
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.data.coco import CocoData, load_coco
from s4m_pipeline.data.depth_files import require_depth
from s4m_pipeline.data.findings import Findings, Problem
from s4m_pipeline.data.leak import check_leak, file_size
from s4m_pipeline.data.root import missing_name


def load_labeled(data: DataOptions) -> tuple[CocoData, CocoData]:
    """Load the labeled training images and the validation images; reports unusable annotations.

    Raises:
        UserError: if their classes differ, they share images, image files are missing or empty, or depth maps
            are missing.
    """
    train = load_coco(data.path(data.labeled), data.path(data.train_images))
    val = load_coco(*data.split("val"))
    if train.class_names != val.class_names:
        raise UserError(
            "Training and validation data have different classes.\n"
            f"  {train.json_path} ({len(train.class_names)}): {', '.join(train.class_names)}\n"
            f"  {val.json_path} ({len(val.class_names)}): {', '.join(val.class_names)}\n"
            "Both files need the same categories."
        )
    for data_set in (train, val):  # before the comparison, which can only compare names of missing files
        _require_files(data_set)
        if data.depth is not None:
            require_depth(data_set.images, data.depth)
    check_leak(train, val)
    unusable = sum(map(len, train.annotations.values())) - len(train.usable)
    if unusable:
        console.progress.print(
            f"{train.json_path}: {unusable} annotations are crowd regions, empty or contradictory and are "
            f"not used for training (`s4m data check {train.json_path}` lists them).",
            soft_wrap=True,
        )
    return train, val


def held_out_sets(data: DataOptions) -> list[CocoData]:
    """The validation images and, if the config names some, the test images.

    Raises:
        UserError: as `load_coco`.
    """
    splits: list[Split] = ["val"] if data.test is None else ["val", "test"]
    return [load_coco(*data.split(name)) for name in splits]


def _require_files(data: CocoData) -> None:
    """Refuse missing or empty image files, all in one message."""
    findings = Findings()
    for image in data.images:
        if not (size_bytes := file_size(image.path)):
            if size_bytes is None:
                findings.add(Problem.FILE_MISSING, missing_name(image.path, image.file_name))
            else:
                findings.add(Problem.FILE_EMPTY, image.file_name)
    command = f"s4m data check {data.json_path} --images {data.images_root}"
    findings.raise_errors(data.json_path, f"{data.folder_advice()}Next: `{command}` checks all images.")
