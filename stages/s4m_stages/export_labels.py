"""`s4m export labels|review`: pseudo-labels and predictions for other programs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from s4m_pipeline.core import console
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.core.locations import cache_location
from s4m_pipeline.core.paths import SUGGESTED
from s4m_pipeline.experiment.recorded import experiment_data
from s4m_stages.arguments import not_writable, refuse_existing

if TYPE_CHECKING:
    from s4m_cache.coco import LabeledImages
    from s4m_cache.reader import CacheReader


def labels(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="Folder of an experiment, or its cache (folder or s3://...); a folder that `s4m predict` "
            "wrote; or a COCO JSON.",
            show_default=False,
            parser=cache_location,
        ),
    ],
    out: Annotated[Path, typer.Argument(help="coco: JSON file to write. Other formats: folder.")],
    to: Annotated[
        Literal["coco", "yolo", "labelme", "label-images"], typer.Option("--format", help="Format.")
    ] = "coco",
    generation: Annotated[
        int | None,
        typer.Option(
            "--generation", "-g", min=1, help="Number of a generation.", show_default="the published one"
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            help="COCO JSON or folder of the unlabeled images, for their file names.",
            show_default="those stored with the labels, or of the experiment's config",
        ),
    ] = None,
) -> None:
    """Write pseudo-labels or predictions as COCO, YOLO, LabelMe or label images."""
    from s4m_cache.coco import LabeledImages
    from s4m_pipeline.apps.export.labels import read_predictions, read_pseudo_labels

    refuse_existing(out)
    if to == "coco" and out.suffix != ".json":
        raise UserError(f"{out}: expected a file name that ends in .json (other formats: a folder).")
    if (labeled := read_predictions(source)) is not None:
        _refuse_options_of_a_cache(source, generation, images)
        count = _write_labels(labeled, out, to, f"exported from {source.name}")
    else:
        with read_pseudo_labels(source, generation) as reader:
            labeled = LabeledImages.of(reader, _file_names(reader, source, images))
            count = _write_labels(labeled, out, to, f"pseudo-labels, {reader.generation.name}")
    if to == "coco":
        _warn_of_category_zero(labeled)
    console.result.print(f"{out}: {count} objects in {len(labeled)} images")


def _write_labels(labeled: "LabeledImages", out: Path, to: str, description: str) -> int:
    """Write labels in a format; returns the number of objects."""
    from s4m_cache.coco import write_coco
    from s4m_pipeline.data.formats.label_images import write_label_images
    from s4m_pipeline.data.formats.labelme import write_labelme
    from s4m_pipeline.data.formats.yolo import write_yolo

    writers = {"yolo": write_yolo, "labelme": write_labelme, "label-images": write_label_images}
    try:
        if to == "coco":
            out.parent.mkdir(parents=True, exist_ok=True)
            return write_coco(labeled, out, description)
        return writers[to](labeled, out)
    except OSError as error:
        raise not_writable(out, error) from error


def _refuse_options_of_a_cache(source: Path, generation: int | None, images: Path | None) -> None:
    for option, value in (("--generation", generation), ("--images", images)):
        if value is not None:
            raise UserError(f"{option} is for pseudo-labels, and {source} has none.\nLeave it out.")


def review(
    folder: Annotated[Path, typer.Argument(metavar="WORK_DIR", help="Folder of an experiment.")],
    out: Annotated[Path, typer.Argument(metavar="DIR", help="New folder for the task.")],
    to: Annotated[
        Literal["coco", "labelme"],
        typer.Option("--format", help="coco: one file, for CVAT. labelme: one beside each image."),
    ] = "coco",
    list_path: Annotated[
        Path | None,
        typer.Option(
            "--list",
            metavar="FILE",
            help="File names of unlabeled images, one per line.",
            show_default="those of s4m suggest",
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All unlabeled images.")] = False,
) -> None:
    """Write unlabeled images with pre-drawn masks, to be corrected in a labeling tool.

    The folder has copies of the images and the published pseudo-labels. Next: s4m data merge.
    """
    from s4m_cache.errors import disk_error
    from s4m_pipeline.apps.export.labels import read_pseudo_labels
    from s4m_pipeline.apps.export.review import REVIEW_IMAGES, REVIEW_JSON, export_review, listed_images
    from s4m_pipeline.data.splits import read_list
    from s4m_pipeline.data.unlabeled import require_same_list, unlabeled_of

    refuse_existing(out)
    if every and list_path:
        raise typer.BadParameter("expected --list or --all, not both")
    source = list_path or folder / SUGGESTED
    if not every and not source.exists():
        raise UserError(
            f"{source} does not exist.\nRun `s4m suggest {folder}` first, or give --list or --all."
        )
    unlabeled = unlabeled_of(experiment_data(folder))
    images = unlabeled.images if every else listed_images(unlabeled, read_list(source), source)
    with read_pseudo_labels(folder) as reader:
        require_same_list(reader.generation, unlabeled)
        try:
            count = export_review(reader, images, out, to)
        except OSError as error:
            raise disk_error(out, reader.size_bytes, error) from error
    file = out / (REVIEW_JSON if to == "coco" else REVIEW_IMAGES)
    console.result.print(f"{file}: {count} objects in {len(images)} images")
    convert = f"s4m data convert labelme {file} CORRECTED.json, " if to == "labelme" else ""
    console.progress.print(
        f"Next: correct them, then {convert}s4m data merge {folder} CORRECTED.json --out DIR",
        soft_wrap=True,
    )


def _file_names(reader: "CacheReader", folder: Path, images: Path | None) -> dict[int, str] | None:
    """File names by image id: those of `images`, those of the experiment's data, or None."""
    from s4m_cache.errors import abridged
    from s4m_pipeline.apps.export.labels import named_files, recorded_files
    from s4m_pipeline.data.unlabeled import names_digest

    if images is not None:
        names = named_files(images)
        made_for = reader.generation.spec.fingerprint.get("image names")
        if images.is_dir() and made_for not in (None, names_digest(names.items())):
            raise UserError(
                f"{images}: files were added, removed or renamed since the labels were made, and images "
                "of a folder are known by their order.\nLeave out --images, or give a COCO JSON."
            )
        if unknown := [id_ for id_ in reader.image_ids.tolist() if id_ not in names]:
            raise UserError(
                f"{images} has no file names for images {abridged(unknown)}.\n"
                "Expected the list of images that the labels were made from."
            )
        return names
    if reader.generation.file_names:
        return reader.generation.file_names
    experiment = folder if reader.generation.root != folder else folder.parent
    recorded = recorded_files(reader, experiment)
    if recorded is None:
        console.progress.print(
            "The images' file names are unknown, so images are named by their ids. "
            "--images takes the names from a COCO JSON or a folder.",
            soft_wrap=True,
        )
    return recorded


def _warn_of_category_zero(labeled: "LabeledImages") -> None:
    if 0 in labeled.category_ids:
        console.progress.print(
            f"The category {labeled.classes[labeled.category_ids.index(0)]} has the id 0, which CVAT reads "
            "as no class. Number the data set's categories from 1 if the file is for CVAT.",
            soft_wrap=True,
        )
