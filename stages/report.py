"""The page about an experiment, and pictures that show what a network has learnt.

`s4m report WORK_DIR` is the page; a first word that is the name of a command here is that command instead.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from s4m_pipeline import console
from s4m_pipeline.errors import UserError
from s4m_pipeline.layout import (
    CACHE,
    GENERATIONS,
    METRICS,
    REPORT,
    STUDENT,
    TEACHER,
    WEIGHTS,
    experiment_folder,
)
from s4m_pipeline.options.experiment import load_experiment
from s4m_pipeline.options.groups import DataOptions
from s4m_pipeline.options.parsing import OptionFaults, parse_group
from stages.arguments import Checkpoint, Config, Overrides, TrainedConfig, TrustCheckpoint, WorkDir
from stages.artifacts import read_run

if TYPE_CHECKING:
    from s4m_pipeline.report.collect import DataSource

Point = tuple[float, float]

PAGE = "page"


class _PageByDefault(TyperGroup):
    """Takes words that begin with no command's name for those of the page."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] != "--help" and args[0] not in self.commands:
            args = [PAGE, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_PageByDefault,
    no_args_is_help=True,
    options_metavar="",
    subcommand_metavar="WORK_DIR [OPTIONS] | COMMAND [ARGS]...",
)


@app.callback()
def _report() -> None:
    """Write WORK_DIR/report.html, one page about an experiment (options: s4m report page --help), or draw a
    picture with one of the commands."""


@app.command(PAGE)
def page(
    work_dir: Annotated[Path, typer.Argument(help="Folder of the experiment, such as work_dirs/demo.")],
    config: Annotated[
        Path | None,
        typer.Option(help="Config that says where the unlabelled images are.", show_default="as recorded"),
    ] = None,
    images: Annotated[int, typer.Option(min=0, max=200, metavar="N", help="Images in the gallery.")] = 36,
    pictures: Annotated[
        bool,
        typer.Option("--pictures", help="First draw the pictures that are absent or older than the weights."),
    ] = False,
    overrides: Overrides = None,
) -> None:
    """The page, one file that needs no network; `s4m report WORK_DIR` is the same."""
    if not work_dir.is_dir():
        raise UserError(
            f"{work_dir}: no such folder, and no command of s4m report.\n"
            "Expected the folder of an experiment, such as work_dirs/demo, or a command (s4m report --help)."
        )
    found = {name: read_run(work_dir / name) for name in (TEACHER, STUDENT)}
    runs = {name: run for name, run in found.items() if run is not None}
    source = _recorded_source(runs) if config is None else _configured_source(config, overrides or [])
    if pictures:
        _draw_pictures(work_dir, config, overrides or [])

    from s4m_pipeline.report.collect import Places, collect
    from s4m_pipeline.report.page import write_page

    places = Places(
        folder=work_dir,
        cache=work_dir / CACHE,
        metrics={name: work_dir / name / METRICS for name in runs},
        history=work_dir / STUDENT / GENERATIONS,
    )
    out = work_dir / REPORT
    write_page(out, collect(places, runs, source, images, console.progress.print))
    console.result.print(f"{out}")


def _draw_pictures(work_dir: Path, config: Path | None, overrides: Sequence[str]) -> None:
    if config is None:
        raise UserError("--pictures: expected --config, too, the config that the pictures are drawn of.")
    options, parts = load_experiment(config, overrides)
    from s4m_pipeline.report.illustrations import draw_outdated

    weights = {name: work_dir / name / WEIGHTS for name in (TEACHER, STUDENT)}
    finished = {name: path for name, path in weights.items() if path.is_file()}
    draw_outdated(work_dir, work_dir / CACHE, finished, options, parts, console.progress.print)


def _configured_source(config: Path, overrides: Sequence[str]) -> "DataSource":
    options, _ = load_experiment(config, overrides)
    from s4m_pipeline.report.collect import DataSource

    return DataSource(data=options.data, ground_truth=options.refine.ground_truth)


def _recorded_source(runs: Mapping[str, Mapping[str, Any]]) -> "DataSource | str":
    """Where the images are by the settings of the latest training; or why that is not known."""
    if not runs:
        return "no training says where the images are; give the config with --config"
    settings = list(runs.values())[-1].get("config", {})
    from s4m_pipeline.report.collect import DataSource

    try:
        data: DataOptions = parse_group(DataOptions, "data", settings.get("data", {}))
    except OptionFaults as error:
        return f"the recorded settings are of another version ({error}); give the config with --config"
    return DataSource(data=data, ground_truth=settings.get("refine", {}).get("ground_truth"))


@app.command()
def similarity(
    config: TrainedConfig,
    checkpoint: Checkpoint,
    image: Annotated[Path, typer.Argument(help="An image file.")],
    points: Annotated[
        list[str], typer.Option("--point", metavar="X,Y", help="Pixel looked from; repeat for more rows.")
    ],
    baseline: Annotated[
        Path | None, typer.Option(help="A second checkpoint to compare with, trained without distillation.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Picture to write.")] = Path("similarity.png"),
    overrides: Overrides = None,
    trust_checkpoint: TrustCheckpoint = False,
) -> None:
    """Draw which places SAM 2 and a teacher find similar to a point (Figure 7 of the paper)."""
    options, parts = load_experiment(config, overrides or [])

    from s4m_pipeline.data.images import read_rgb

    _, header = read_rgb(image)
    places = [_parse_point(text, header.width, header.height) for text in points]
    _require_png(out)
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}.\nMake it, or name another place.")
    checkpoints = {"teacher": checkpoint} | ({"baseline": baseline} if baseline else {})

    from s4m_pipeline.report.illustrations import similarity_picture

    similarity_picture(options, parts, checkpoints, image, places, out, trust=trust_checkpoint)
    console.result.print(f"{out}")


@app.command()
def augmentation(
    config: Config,
    images: Annotated[int, typer.Option(min=1, max=50, metavar="N", help="Images of each branch.")] = 4,
    out: Annotated[
        Path | None,
        typer.Option(help="Picture to write.", show_default="augmentation.png in the experiment's folder"),
    ] = None,
    overrides: Overrides = None,
    work_dir: WorkDir = None,
) -> None:
    """Draw how images and labels of both branches become what the student's network gets in its first step.

    Without labels in the cache it is the labelled branch alone, which is the teacher's as well.
    """
    options, parts = load_experiment(config, overrides or [])
    experiment = experiment_folder(config, work_dir)
    path = out or experiment / "augmentation.png"
    _require_png(path)

    from s4m_pipeline.report.illustrations import augmentation_picture

    augmentation_picture(options, parts, experiment / CACHE, images, path, console.progress.print)
    console.result.print(f"{path}")


@app.command()
def arp(
    config: Config,
    pairs: Annotated[int, typer.Option(min=1, max=50, metavar="N", help="Pairs of images.")] = 4,
    out: Annotated[
        Path | None,
        typer.Option(help="Picture to write.", show_default="arp.png in the experiment's folder"),
    ] = None,
    overrides: Overrides = None,
    work_dir: WorkDir = None,
) -> None:
    """Draw the ARP step alone: pairs of unlabelled images before and after they exchanged their instances.

    They are the first ones that a student's training is given, with the labels published in the cache.
    """
    options, parts = load_experiment(config, overrides or [])
    experiment = experiment_folder(config, work_dir)
    path = out or experiment / "arp.png"
    _require_png(path)

    from s4m_pipeline.report.illustrations import arp_picture

    arp_picture(options, parts, experiment / CACHE, pairs, path)
    console.result.print(f"{path}")


def _require_png(path: Path) -> None:
    if path.suffix.lower() != ".png":
        raise UserError(f"--out {path}: expected a file name that ends in .png.")


def _parse_point(text: str, width: int, height: int) -> Point:
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*,\s*(\d+(?:\.\d+)?)\s*", text)
    if found is None:
        raise UserError(f"--point {text}: expected X,Y in pixels from the top left corner, such as 120,64.")
    x, y = (float(number) for number in found.groups())
    if x > width - 1 or y > height - 1:
        raise UserError(
            f"--point {text} is outside the image of {width} x {height} pixels.\n"
            f"Expected X from 0 to {width - 1} and Y from 0 to {height - 1}."
        )
    return x, y
