"""`s4m data`: make, check and split data sets in COCO format."""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s4m_cache.limits import MAX_PIXELS
from s4m_pipeline.core import console
from s4m_stages import convert, examples
from s4m_stages.arguments import Force, MaxPixels

if TYPE_CHECKING:
    from s4m_pipeline.data.check import Summary
    from s4m_pipeline.data.coco import CocoData
    from s4m_pipeline.data.findings import Findings

app = typer.Typer(help="Make, check and split data sets in COCO format.", no_args_is_help=True)
app.add_typer(convert.app, name="convert")
app.add_typer(examples.miniature_app, name="miniature")
for write_example in (examples.demo, examples.cells, examples.crowds, examples.coins):
    app.command()(write_example)

Source = Annotated[Path, typer.Argument(metavar="JSON", help="COCO JSON file of the data set.")]
Images = Annotated[
    Path | None,
    typer.Option(
        help="Folder that the file names are relative to.",
        show_default="train/ beside train.json, else the JSON's folder",
    ),
]
Validation = Annotated[
    list[Path] | None,
    typer.Option(
        "--val", metavar="JSON", help="Validation set that must not share images with it; repeatable."
    ),
]
ValidationImages = Annotated[
    Path | None,
    typer.Option("--val-images", help="Image folder of the validation sets.", show_default="as for --images"),
]


@app.command()
def check(
    json_path: Source,
    images: Images = None,
    val: Validation = None,
    val_images: ValidationImages = None,
    max_pixels: MaxPixels = MAX_PIXELS,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole report as JSON.")] = False,
) -> None:
    """Report all problems of a data set: JSON, image files, images shared with validation sets. Exit code 1
    if there are errors."""
    from s4m_pipeline.data.check import check_images, check_validation, report_json, summarize
    from s4m_pipeline.data.coco import parse_coco
    from s4m_pipeline.data.root import images_beside

    data, findings = parse_coco(json_path, images or images_beside(json_path), max_pixels)
    findings.update(check_images(data.images, max_pixels))
    for path in val or []:
        other, _ = parse_coco(path, val_images or images_beside(path), max_pixels)
        _warn_of_missing_files([other])
        findings.update(check_validation(data, other))
    if as_json:
        print(json.dumps(report_json(data, findings), indent=1))
    else:
        _print_findings(json_path, findings)
        console.result.print(data.folder_advice(), end="", style="bold red")
        _print_summary(summarize(data))
    if findings.count("error"):
        raise typer.Exit(1)


@app.command()
def split(
    json_path: Source,
    out: Annotated[Path, typer.Option(help="Folder for labeled.json, unlabeled.json and split.json.")],
    percent: Annotated[float | None, typer.Option(help="Label this percentage of the images.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the choice made by --percent.")] = 0,
    list_path: Annotated[
        Path | None,
        typer.Option("--list", metavar="FILE", help="Label the images listed in FILE, one per line."),
    ] = None,
    unlabeled: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Label all images; the unlabeled ones are those in DIR."),
    ] = None,
    images: Images = None,
    val: Validation = None,
    val_images: ValidationImages = None,
    max_pixels: MaxPixels = MAX_PIXELS,
    force: Force = False,
) -> None:
    """Split a data set into labeled and unlabeled images, by one of --percent, --list and --unlabeled."""
    from s4m_pipeline.data.coco import load_coco
    from s4m_pipeline.data.root import images_beside
    from s4m_pipeline.data.split_files import refuse_overwrite, write_split
    from s4m_pipeline.data.splits import split_folder, split_listed, split_percent

    if sum(choice is not None for choice in (percent, list_path, unlabeled)) != 1:
        raise typer.BadParameter("expected exactly one of --percent, --list and --unlabeled")
    refuse_overwrite(out, [json_path, *(val or []), *([list_path] if list_path else [])], force)
    data = load_coco(json_path, images or images_beside(json_path), max_pixels=max_pixels)
    validation = [
        load_coco(path, val_images or images_beside(path), max_pixels=max_pixels) for path in val or []
    ]
    _warn_of_missing_files([data, *validation])
    if percent is not None:
        plan = split_percent(data, percent, seed, validation)
    elif list_path is not None:
        plan = split_listed(data, list_path, validation)
    else:
        assert unlabeled is not None
        plan = split_folder(data, unlabeled, validation, max_pixels)
    _print_split(out, write_split(data, plan, validation, out))


@app.command()
def merge(
    work_dir: Annotated[Path, typer.Argument(help="Folder of the experiment, such as work_dirs/demo.")],
    corrected: Annotated[
        Path, typer.Argument(metavar="JSON", help="COCO JSON of unlabeled images that are labeled now.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for labeled.json, unlabeled.json and split.json.")],
    images: Images = None,
    force: Force = False,
) -> None:
    """Move corrected images from the unlabeled to the labeled set, as a new split.

    Refuses images that are also in the validation or the test set. Prints the `s4m run` that uses the split.
    """
    from s4m_pipeline.data.coco import load_coco
    from s4m_pipeline.data.labeled import held_out_sets
    from s4m_pipeline.data.merging import merge as merge_sets
    from s4m_pipeline.data.root import images_beside
    from s4m_pipeline.data.split_files import LABELED, UNLABELED, refuse_overwrite, write_split
    from s4m_pipeline.data.unlabeled import unlabeled_of
    from s4m_pipeline.experiment.recorded import experiment_data

    options = experiment_data(work_dir)
    unlabeled = unlabeled_of(options)
    labeled = load_coco(options.path(options.labeled), options.path(options.train_images))
    refuse_overwrite(out, [corrected, labeled.json_path, unlabeled.source], force)
    answers = load_coco(corrected, images or images_beside(corrected))
    validation = held_out_sets(options)
    whole, plan = merge_sets(labeled, unlabeled, answers, validation)
    _print_split(out, write_split(whole, plan, validation, out))
    settings = {"labeled": out.resolve() / LABELED, "unlabeled": out.resolve() / UNLABELED}
    if whole.images_root != labeled.images_root:
        settings["train_images"] = whole.images_root
    words = [word for name, path in settings.items() for word in ("--set", f"data.{name}={path}")]
    console.result.print(f"Next: s4m run CONFIG {shlex.join(words)} --overwrite")


@app.command()
def depth(
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="Folder of images.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for their depth maps.")],
    model: Annotated[
        str, typer.Option(help="Name on Hugging Face's hub, or a folder.")
    ] = "depth-anything/Depth-Anything-V2-Small-hf",
) -> None:
    """Estimate a depth map for each image of a folder, as `data.depth` expects them. Finished ones stay.

    For the images in ROOT/train, OUT is ROOT/depth/train.
    """
    from s4m_pipeline.data.depth_model import write_depth

    console.result.print(f"{out}: {write_depth(images, out, model)} depth maps")


def _print_findings(json_path: Path, findings: "Findings") -> None:
    from rich.table import Table
    from rich.text import Text

    from s4m_pipeline.data.findings import first_names

    colors = {"error": "bold red", "warning": "yellow", "note": "dim"}
    table = Table(title=Text(f"Problems of {json_path}"), title_justify="left")
    for column in ("", "count", "problem", "where"):
        table.add_column(column, justify="right" if column == "count" else "left", overflow="fold")
    for problem, names in findings:
        kind = Text(problem.severity, style=colors[problem.severity])
        table.add_row(kind, str(len(names)), Text(problem.text), Text(first_names(names)))
    if table.row_count:
        console.result.print(table)
    verdict = f"{findings.count('error')} errors, {findings.count('warning')} warnings"
    console.result.print(verdict, style="bold red" if findings.count("error") else "green")


def _print_summary(summary: "Summary") -> None:
    from rich.table import Table
    from rich.text import Text

    spread = ", ".join(f"{name} {value:g}" for name, value in summary.instances_per_image.items())
    console.result.print(
        f"{summary.images} images, {summary.annotations} annotations, {summary.instances} usable instances; "
        f"per image: {spread}"
    )
    largest = max(summary.instances_per_class.values(), default=0) or 1
    table = Table("class", "instances", "")
    for name, count in summary.instances_per_class.items():
        table.add_row(Text(name), str(count), "█" * round(30 * count / largest))
    console.result.print(table)


def _warn_of_missing_files(sets: "list[CocoData]") -> None:
    for data in sets:
        missing = sum(not image.path.is_file() for image in data.images)
        if missing:
            console.progress.print(
                f"{data.json_path}: {missing} of {len(data.images)} image files are not in "
                f"{data.images_root}; images are compared by name only. Set the folders with --images and "
                "--val-images.",
                style="yellow",
                soft_wrap=True,
            )


def _print_split(out: Path, record: dict[str, Any]) -> None:
    absent = [name for name, count in record["labeled"]["instances_per_class"].items() if count == 0]
    if absent:
        message = f"classes without a labeled instance: {', '.join(absent)}"
        console.progress.print(message, style="yellow", soft_wrap=True)
    labeled, unlabeled = record["labeled"], record["unlabeled"]
    console.result.print(
        f"{out}: {labeled['images']} labeled images with {labeled['instances']} instances, "
        f"{unlabeled['images']} unlabeled images",
    )
