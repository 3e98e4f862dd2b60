"""What every training needs: labelled images to learn from, and others to validate on."""

from s4m_pipeline import console
from s4m_pipeline.data.coco import CocoData, load_coco
from s4m_pipeline.data.leak import check_leak
from s4m_pipeline.errors import UserError
from s4m_pipeline.options.groups import DataOptions


def load_labelled(data: DataOptions) -> tuple[CocoData, CocoData]:
    """The labelled training images and the validation images; says what of the former is not learnt from.

    Raises:
        UserError: if their classes differ, or an image is in both.
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
    check_leak(train, val)
    unusable = sum(map(len, train.annotations.values())) - len(train.usable)
    if unusable:
        console.progress.print(
            f"{train.json_path}: {unusable} annotations are crowd regions or empty: nothing is learnt from "
            f"them (`s4m data check {train.json_path}` says which).",
            soft_wrap=True,
        )
    return train, val
