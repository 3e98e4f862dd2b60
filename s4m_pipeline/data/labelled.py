"""What every training needs: labelled images to learn from, and others to validate on."""

from s4m_pipeline import console
from s4m_pipeline.data.coco import CocoData, load_coco
from s4m_pipeline.data.findings import Findings, Problem
from s4m_pipeline.data.leak import check_leak, file_size
from s4m_pipeline.errors import UserError
from s4m_pipeline.options.groups import DataOptions


def load_labelled(data: DataOptions) -> tuple[CocoData, CocoData]:
    """The labelled training images and the validation images; says what of the former is not learnt from.

    Raises:
        UserError: if their classes differ, an image is in both, or files of images are absent or empty.
    """
    train = load_coco(data.path(data.labeled), data.path(data.train_images))
    val = load_coco(*data.split("val"))
    if train.class_names != val.class_names:
        raise UserError(
            "Training and validation data have other classes.\n"
            f"  {train.json_path} ({len(train.class_names)}): {', '.join(train.class_names)}\n"
            f"  {val.json_path} ({len(val.class_names)}): {', '.join(val.class_names)}\n"
            "Give both files the same categories."
        )
    for part in (train, val):  # before the leak, which absent files are accused of by their names alone
        _require_files(part)
    check_leak(train, val)
    unusable = sum(map(len, train.annotations.values())) - len(train.usable)
    if unusable:
        console.progress.print(
            f"{train.json_path}: {unusable} annotations are crowd regions or empty: nothing is learnt from "
            f"them (`s4m data check {train.json_path}` says which).",
            soft_wrap=True,
        )
    return train, val


def _require_files(data: CocoData) -> None:
    """Refuse images whose files are absent or empty all at once; training would meet them one by one."""
    findings = Findings()
    for image in data.images:
        if not (size_bytes := file_size(image.path)):
            problem = Problem.FILE_MISSING if size_bytes is None else Problem.FILE_EMPTY
            findings.add(problem, image.file_name)
    command = f"s4m data check {data.json_path} --images {data.images_root}"
    findings.raise_errors(data.json_path, f"Next: `{command}` decodes all images.")
