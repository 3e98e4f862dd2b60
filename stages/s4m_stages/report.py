"""`s4m report`: the HTML report of an experiment, and its pictures.

`s4m report WORK_DIR` writes the report; if the first argument is the name of a command here, it runs that.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from s4m_pipeline.config.experiment import load_experiment
from s4m_pipeline.core import console
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.core.paths import (
    REPORT,
    STUDENT,
    TEACHER,
    WEIGHTS,
    experiment_folder,
)
from s4m_pipeline.experiment.cache_place import experiment_cache
from s4m_pipeline.experiment.recorded import Runs, latest_settings, read_runs, recorded_data
from s4m_stages.arguments import Checkpoint, Config, Overrides, TrainedConfig, TrustCheckpoint, WorkDir

if TYPE_CHECKING:
    from s4m_pipeline.apps.report.collect import DataSource

Point = tuple[float, float]

PAGE = "page"


class _PageByDefault(TyperGroup):
    """Passes arguments that do not start with a command's name to `page`."""

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
    """Write WORK_DIR/report.html, a report on an experiment (options: s4m report page --help), or draw a
    picture with one of the commands."""


@app.command(PAGE)
def page(
    work_dir: Annotated[Path, typer.Argument(help="Folder of the experiment, such as work_dirs/demo.")],
    config: Annotated[
        Path | None,
        typer.Option(help="Config with the paths of the unlabeled images.", show_default="as recorded"),
    ] = None,
    images: Annotated[int, typer.Option(min=0, max=200, metavar="N", help="Images in the gallery.")] = 36,
    pictures: Annotated[
        bool,
        typer.Option("--pictures", help="First draw pictures that are missing or older than the weights."),
    ] = False,
    overrides: Overrides = None,
) -> None:
    """Write the report, one file that needs no network; the same as `s4m report WORK_DIR`."""
    if not work_dir.is_dir():
        raise UserError(
            f"{work_dir}: no such folder and no command of s4m report.\n"
            "Expected the folder of an experiment, such as work_dirs/demo, or a command (s4m report --help)."
        )
    runs = read_runs(work_dir)
    source: DataSource | str
    if config is None:
        source, cache = _recorded_source(runs), experiment_cache(work_dir)
    else:
        source, cache = _configured_source(config, overrides or [], work_dir)
    if pictures:
        _draw_pictures(work_dir, config, overrides or [])

    from s4m_pipeline.apps.report.collect import collect
    from s4m_pipeline.apps.report.page import write_page

    out = work_dir / REPORT
    write_page(out, collect(work_dir, runs, cache, source, images, console.progress.print))
    console.result.print(f"{out}")


def _draw_pictures(work_dir: Path, config_path: Path | None, overrides: Sequence[str]) -> None:
    if config_path is None:
        raise UserError("--pictures: expected --config as well: the pictures are drawn from the config.")
    options, config = load_experiment(config_path, overrides)
    from s4m_pipeline.apps.report.illustrations import draw_outdated

    weights = {name: work_dir / name / WEIGHTS for name in (TEACHER, STUDENT)}
    finished = {name: path for name, path in weights.items() if path.is_file()}
    draw_outdated(work_dir, options.cache.folder(work_dir), finished, options, config, console.progress.print)


def _configured_source(config: Path, overrides: Sequence[str], work_dir: Path) -> "tuple[DataSource, Path]":
    """The image paths, and the cache."""
    options, _ = load_experiment(config, overrides)
    from s4m_pipeline.apps.report.collect import DataSource

    source = DataSource(data=options.data, ground_truth=options.refine.ground_truth)
    return source, options.cache.folder(work_dir)


def _recorded_source(runs: Runs) -> "DataSource | str":
    """The image paths in the settings of the latest training, or the reason why they are unknown."""
    from s4m_pipeline.apps.report.collect import DataSource

    try:
        data = recorded_data(runs)
    except UserError as error:
        return f"{error}; pass the config with --config"
    return DataSource(data=data, ground_truth=latest_settings(runs).get("refine", {}).get("ground_truth"))


@app.command()
def similarity(
    config_path: TrainedConfig,
    checkpoint: Checkpoint,
    image: Annotated[Path, typer.Argument(help="An image file.")],
    points: Annotated[
        list[str],
        typer.Option("--point", metavar="X,Y", help="Pixel to compare with; repeatable."),
    ],
    baseline: Annotated[
        Path | None, typer.Option(help="A second checkpoint, e.g. one trained without distillation.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Picture to write.")] = Path("similarity.png"),
    overrides: Overrides = None,
    trust_checkpoint: TrustCheckpoint = False,
) -> None:
    """Draw the similarity of all pixels to given points, by SAM 2 and a teacher (Figure 7 of the paper)."""
    options, config = load_experiment(config_path, overrides or [])

    from s4m_pipeline.data.images import read_rgb

    _, header = read_rgb(image)
    places = [_parse_point(text, header.width, header.height) for text in points]
    _require_png(out)
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}.\nCreate it, or use a different one.")
    checkpoints = {"teacher": checkpoint} | ({"baseline": baseline} if baseline else {})

    from s4m_pipeline.apps.report.illustrations import similarity_picture

    similarity_picture(options, config, checkpoints, image, places, out, trust=trust_checkpoint)
    console.result.print(f"{out}")


@app.command()
def augmentation(
    config_path: Config,
    images: Annotated[int, typer.Option(min=1, max=50, metavar="N", help="Images of each branch.")] = 4,
    out: Annotated[
        Path | None,
        typer.Option(help="Picture to write.", show_default="augmentation.png in the experiment's folder"),
    ] = None,
    overrides: Overrides = None,
    work_dir: WorkDir = None,
) -> None:
    """Draw images and labels of both branches after each augmentation in the student's first iteration,
    before and after ARP (augmentation with refined pseudo-labels) too.

    Without labels in the cache only the labeled branch is drawn, which is also the teacher's.
    """
    options, config = load_experiment(config_path, overrides or [])
    experiment = experiment_folder(config_path, work_dir)
    path = out or experiment / "augmentation.png"
    _require_png(path)

    from s4m_pipeline.apps.report.illustrations import augmentation_picture

    augmentation_picture(
        options, config, options.cache.folder(experiment), images, path, console.progress.print
    )
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
