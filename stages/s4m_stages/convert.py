"""`s4m data convert`: annotations of other programs to COCO JSON."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from s4m_cache.limits import MAX_PIXELS
from s4m_pipeline.core import console
from s4m_stages.arguments import Force, MaxPixels

if TYPE_CHECKING:
    from s4m_pipeline.data.formats.convert import Converted

app = typer.Typer(help="Convert annotations to COCO JSON.", no_args_is_help=True)

Out = Annotated[Path, typer.Argument(metavar="OUT.json", help="COCO JSON file to write.")]


@app.command()
def yolo(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="data.yaml, or its folder.")],
    out: Out,
    split: Annotated[
        Literal["train", "val", "test"], typer.Option(help="Part of the data set, as data.yaml names it.")
    ] = "train",
    images: Annotated[
        Path | None,
        typer.Option(help="Folder that file names will be relative to.", show_default="that of the split"),
    ] = None,
    max_pixels: MaxPixels = MAX_PIXELS,
    force: Force = False,
) -> None:
    """Convert YOLO segmentation labels, with the masks that Ultralytics fills."""
    from s4m_pipeline.data.formats.convert import write
    from s4m_pipeline.data.formats.yolo import read_yolo

    _refuse_existing(out, force)
    _print(write("yolo", source, read_yolo(source, images, split, max_pixels), out))


@app.command()
def labelme(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="Folder of LabelMe's JSON files.")],
    out: Out,
    images: Annotated[
        Path | None,
        typer.Option(help="Folder that file names will be relative to.", show_default="SOURCE"),
    ] = None,
    max_pixels: MaxPixels = MAX_PIXELS,
    force: Force = False,
) -> None:
    """Convert LabelMe's files, with the masks that LabelMe draws."""
    from s4m_pipeline.data.formats.convert import write
    from s4m_pipeline.data.formats.labelme import read_labelme

    _refuse_existing(out, force)
    _print(write("labelme", source, read_labelme(source, images, max_pixels), out))


@app.command("label-images")
def label_images(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="Folder of label images, PNG or TIFF.")],
    out: Out,
    images: Annotated[Path, typer.Option(help="Folder of the images, which have the same names.")],
    max_pixels: MaxPixels = MAX_PIXELS,
    force: Force = False,
) -> None:
    """Convert label images, in which every value above 0 is an object. Its class is in classes.csv (columns
    file, id, class), or the subfolder's name; else there is one class."""
    from s4m_pipeline.data.formats.convert import write
    from s4m_pipeline.data.formats.label_images import read_label_images

    _refuse_existing(out, force)
    _print(write("label-images", source, read_label_images(source, images, max_pixels), out))


@app.command()
def cityscapes(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="Folder with leftImg8bit and gtFine.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for the JSON files.", show_default="ROOT/annotations"),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Number of processes.", show_default="one per core")
    ] = None,
    max_pixels: MaxPixels = MAX_PIXELS,
    force: Force = False,
) -> None:
    """Write train.json and val.json with the benchmark's 8 classes; images are not copied."""
    import os

    from s4m_pipeline.data.cityscapes.convert import convert

    folder = out or root / "annotations"
    done = convert(root, folder, jobs=jobs or os.cpu_count() or 1, max_pixels=max_pixels, force=force)
    for split in done:
        drawn = f" ({split.from_polygons} drawn from polygons)" if split.from_polygons else ""
        console.result.print(
            f"{split.json_path}: {split.images} images{drawn}, {split.instances} instances, "
            f"{split.groups} crowd regions",
        )


def _refuse_existing(out: Path, force: bool) -> None:
    from s4m_pipeline.core.errors import UserError

    if out.suffix != ".json":
        raise UserError(f"{out}: expected a file name that ends in .json.")
    if out.exists() and not force:
        raise UserError(f"{out} exists already. Use --force to write it again.")


def _print(converted: "Converted") -> None:
    console.progress.print(converted.summary, soft_wrap=True)
    console.result.print(f"{converted.json_path}: file names are relative to {converted.images}")
