"""`s4m data`: make, check and split data sets in COCO format."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from cache.limits import MAX_PIXELS
from s4m_pipeline import console

if TYPE_CHECKING:
    from s4m_pipeline.data.check import Summary
    from s4m_pipeline.data.coco import CocoData
    from s4m_pipeline.data.findings import Findings

app = typer.Typer(help="Make, check and split data sets in COCO format.", no_args_is_help=True)
convert_app = typer.Typer(help="Turn a data set's own annotations into COCO JSON.", no_args_is_help=True)
miniature_app = typer.Typer(
    help="Draw a tiny data set in the layout of a large one, to try a whole reproduction.",
    no_args_is_help=True,
)
app.add_typer(convert_app, name="convert")
app.add_typer(miniature_app, name="miniature")

Source = Annotated[Path, typer.Argument(metavar="JSON", help="COCO JSON file of the data set.")]
Images = Annotated[
    Path | None,
    typer.Option(
        help="Folder that its file names are relative to.", show_default="train/ beside train.json, else ./"
    ),
]
Validation = Annotated[
    list[Path] | None,
    typer.Option(
        "--val", metavar="JSON", help="Validation set that must share no image with it; repeatable."
    ),
]
ValidationImages = Annotated[
    Path | None,
    typer.Option("--val-images", help="Image folder of the validation sets.", show_default="as for --images"),
]
MaxPixels = Annotated[
    int, typer.Option(min=1, help="Largest width x height accepted; judged before decoding an image.")
]
Counts = TypeVar("Counts")
Seed = Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what an earlier run made.")]


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write train, val and test to.")],
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Write the embedded data set: drawn scenes as PNG images and COCO JSON."""
    from s4m_pipeline.data.scenes.writer import DEMO_SUBSETS, write_demo

    counts = _written_once(folder / f"{DEMO_SUBSETS[-1].name}.json", force, lambda: write_demo(folder, seed))
    for subset in DEMO_SUBSETS:
        line = f"{folder / subset.name}.json: {subset.size} images, {counts[subset.name]} objects"
        console.progress.print(line, soft_wrap=True)


@app.command()
def coins(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write the tiles to.")],
    force: Force = False,
) -> None:
    """Write an example of real data: tiles of a photograph of coins that scikit-image carries."""
    from s4m_pipeline.data.coins import REGIONS, write_coins

    counts = _written_once(folder / f"{REGIONS[-1].name}.json", force, lambda: write_coins(folder))
    for region in REGIONS:
        images, instances = counts[region.name]
        line = f"{folder / region.name}: {images} images; {region.json_name}: {instances} instances"
        console.progress.print(line, soft_wrap=True)


@miniature_app.command("cityscapes")
def miniature_cityscapes(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="Folder for leftImg8bit and gtFine.")],
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Draw 40 + 10 street views with Cityscapes' folders, file names and encodings."""
    from s4m_pipeline.data.miniature.cityscapes import last_file, write_cityscapes

    _print_sizes(root, _written_once(last_file(root), force, lambda: write_cityscapes(root, seed)))


@miniature_app.command("coco")
def miniature_coco(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="Folder for train2017, val2017, annotations.")],
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Draw 60 + 12 photos with COCO 2017's folders, file names and encodings."""
    from s4m_pipeline.data.miniature.coco import last_file, write_coco

    _print_sizes(root, _written_once(last_file(root), force, lambda: write_coco(root, seed)))


@convert_app.command("cityscapes")
def convert_cityscapes(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="Folder with leftImg8bit and gtFine.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for the JSON files.", show_default="ROOT/annotations"),
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes.", show_default="one per core")] = None,
    max_pixels: MaxPixels = MAX_PIXELS,
    force: Force = False,
) -> None:
    """Write train.json and val.json with the benchmark's 8 classes; photos stay where they are."""
    import os

    from s4m_pipeline.data.cityscapes.convert import convert

    folder = out or root / "annotations"
    with _progress_bar() as bar:

        def progress(total: int) -> Callable[[], None]:
            task = bar.add_task("converting", total=total)
            return lambda: bar.advance(task)

        jobs = jobs or os.cpu_count() or 1
        done = convert(root, folder, jobs=jobs, max_pixels=max_pixels, force=force, progress=progress)
    for split in done:
        drawn = f", {split.from_polygons} from polygons" if split.from_polygons else ""
        console.result.print(
            f"{split.json_path}: {split.images} images{drawn}, {split.instances} instances, "
            f"{split.groups} groups",
        )


def _print_sizes(root: Path, sizes: dict[str, int]) -> None:
    for name, size in sizes.items():
        console.progress.print(f"{root}, {name}: {size} images", soft_wrap=True)


def _written_once(last: Path, force: bool, write: Callable[[], Counts]) -> Counts:
    """What `write` returns, which writes a data set whose last file is `last`."""
    from s4m_pipeline.errors import UserError

    if last.exists() and not force:
        raise UserError(f"{last} exists: the data set is finished there. Use --force to write it again.")
    try:
        last.unlink(missing_ok=True)  # until all is written, nothing is finished
        return write()
    except OSError as error:
        raise UserError(
            f"{last.parent}: cannot be written ({error.strerror}). Name another folder."
        ) from error


@app.command()
def check(
    json_path: Source,
    images: Images = None,
    val: Validation = None,
    val_images: ValidationImages = None,
    max_pixels: MaxPixels = MAX_PIXELS,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole report as JSON.")] = False,
) -> None:
    """Report every problem of a data set: JSON, image files, leaks. Exit code 1 when there are errors."""
    from s4m_pipeline.data.check import check_images, check_validation, report_json, summarise
    from s4m_pipeline.data.coco import parse_coco
    from s4m_pipeline.data.root import images_beside

    data, findings = parse_coco(json_path, images or images_beside(json_path), max_pixels)
    console.progress.print(f"{json_path}: decoding {len(data.images)} images", soft_wrap=True)
    with _progress_bar() as bar:
        task = bar.add_task("checking images", total=len(data.images))
        findings.update(check_images(data.images, max_pixels, lambda: bar.advance(task)))
    for path in val or []:
        other, _ = parse_coco(path, val_images or images_beside(path), max_pixels)
        _warn_of_missing_files([other])
        findings.update(check_validation(data, other))
    if as_json:
        print(json.dumps(report_json(data, findings), indent=1))
    else:
        _print_findings(json_path, findings)
        _print_summary(summarise(data))
    if findings.count("error"):
        raise typer.Exit(1)


@app.command()
def split(
    json_path: Source,
    out: Annotated[Path, typer.Option(help="Folder for labeled.json, unlabeled.json and split.json.")],
    percent: Annotated[float | None, typer.Option(help="Label this percentage of the images.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Which images --percent picks.")] = 0,
    list_path: Annotated[
        Path | None, typer.Option("--list", metavar="FILE", help="Label the images named here, one per line.")
    ] = None,
    unlabeled: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Label all images; the unlabelled ones are in DIR.")
    ] = None,
    images: Images = None,
    val: Validation = None,
    val_images: ValidationImages = None,
    max_pixels: MaxPixels = MAX_PIXELS,
    force: Force = False,
) -> None:
    """Divide a data set into labelled and unlabelled images, by one of --percent, --list and --unlabeled."""
    from s4m_pipeline.data.coco import load_coco
    from s4m_pipeline.data.root import images_beside
    from s4m_pipeline.data.split_files import refuse_overwrite, write_split
    from s4m_pipeline.data.splits import split_folder, split_listed, split_percent

    if sum(choice is not None for choice in (percent, list_path, unlabeled)) != 1:
        raise typer.BadParameter("give exactly one of --percent, --list and --unlabeled")
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


def _progress_bar() -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console.progress, transient=True)


def _print_findings(json_path: Path, findings: "Findings") -> None:
    from rich.table import Table
    from rich.text import Text

    from s4m_pipeline.data.findings import first_names

    colours = {"error": "bold red", "warning": "yellow", "note": "dim"}
    table = Table(title=Text(f"Problems of {json_path}"), title_justify="left")
    for column in ("", "count", "problem", "where"):
        table.add_column(column, justify="right" if column == "count" else "left", overflow="fold")
    for problem, names in findings:
        kind = Text(problem.severity, style=colours[problem.severity])
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
                f"{data.json_path}: {missing} of {len(data.images)} files are not in {data.images_root}; "
                "only their names are compared. --images and --val-images name the folders.",
                style="yellow",
                soft_wrap=True,
            )


def _print_split(out: Path, record: dict[str, Any]) -> None:
    absent = [name for name, count in record["labeled"]["instances_per_class"].items() if count == 0]
    if absent:
        console.progress.print(
            f"no labelled instance of: {', '.join(absent)}", style="yellow", soft_wrap=True
        )
    labeled, unlabeled = record["labeled"], record["unlabeled"]
    console.result.print(
        f"{labeled['images']} images with {labeled['instances']} instances labelled, "
        f"{unlabeled['images']} images unlabelled, in {out}",
    )
