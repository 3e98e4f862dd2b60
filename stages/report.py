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
from s4m_pipeline.options.experiment import load_experiment
from s4m_pipeline.options.groups import DataOptions, SamOptions
from s4m_pipeline.options.parsing import OptionFaults, parse_group
from stages.arguments import Checkpoint, Config, Overrides, TrainedConfig, TrustCheckpoint, WorkDir
from stages.artifacts import CACHE, STUDENT, TEACHER, experiment_folder, read_run

if TYPE_CHECKING:
    from s4m_pipeline.models.mask2former import InstanceMask2Former
    from s4m_pipeline.report.collect import DataSource
    from s4m_pipeline.sam import BatchedSam

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

    from s4m_pipeline.report.collect import HISTORY, METRICS, Places, collect
    from s4m_pipeline.report.page import write_page

    places = Places(
        folder=work_dir,
        cache=work_dir / CACHE,
        metrics={name: work_dir / name / METRICS for name in runs},
        history=work_dir / STUDENT / HISTORY,
    )
    out = work_dir / "report.html"
    write_page(out, collect(places, runs, source, images, console.progress.print))
    console.result.print(f"{out}", markup=False, soft_wrap=True)


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

    pixels, header = read_rgb(image)
    places = [_parse_point(text, header.width, header.height) for text in points]
    _require_png(out)
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}.\nMake it, or name another place.")
    networks = _load_networks(
        parts, {"teacher": checkpoint} | ({"baseline": baseline} if baseline else {}), trust_checkpoint
    )

    from s4m_pipeline.report.similarity import Column, draw, network_maps, sam_maps

    sam = sam_maps(_load_sam(options.sam), pixels, places, options.sd.target)
    columns = [
        Column(title="SAM 2", subtitle=f"{options.sam.model}, {options.sd.target}", maps_Phw=sam.maps_Phw)
    ]
    for title, (path, network) in networks.items():
        maps = network_maps(network, parts["test_pipeline"], image, sam)
        distance = float((maps - sam.maps_Phw).abs().mean())
        columns.append(Column(title=f"{title}, {distance:.3f} from SAM", subtitle=str(path), maps_Phw=maps))
    draw(pixels, places, columns).save(out)
    console.result.print(f"{out}", markup=False, soft_wrap=True)


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
    """Draw pairs of unlabelled images with their labels, before and after ARP exchanged their instances.

    They are the first ones that a student's training is given, with the labels published in the cache.
    """
    options, parts = load_experiment(config, overrides or [])
    student, experiment = options.require_student(), experiment_folder(config, work_dir)
    path = out or experiment / "arp.png"
    _require_png(path)
    if student.arp.fraction == 0:
        raise UserError("student.arp.fraction is 0: this student does without ARP.")

    from s4m_pipeline.data.labelled import load_labelled
    from s4m_pipeline.report.arp import draw_pairs, load_pairs, paste_pairs
    from s4m_pipeline.student.labels import load_labels

    train, _ = load_labelled(options.data)
    labels = None
    if student.source == "cache":
        labels = load_labels(options.data, experiment / CACHE, None, train)
    before = load_pairs(student, parts, train, labels, pairs)
    draw_pairs(before, paste_pairs(before, student.arp, student.seed), train.class_names, path)
    console.result.print(f"{path}", markup=False, soft_wrap=True)


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


def _load_networks(
    parts: dict[str, Any], checkpoints: dict[str, Path], trust: bool
) -> dict[str, tuple[Path, "InstanceMask2Former"]]:
    """The network of each checkpoint; all must have been trained for the same classes."""
    from s4m_pipeline.engine.checkpoint import read_weights, require_classes
    from s4m_pipeline.models.load import load_network, named_classes

    weights = {title: read_weights(path, trust=trust) for title, path in checkpoints.items()}
    first, *others = weights.values()
    classes = named_classes(first)
    for other in others:
        require_classes(other, classes, str(first.path))
    return {title: (found.path, load_network(parts, found, len(classes))) for title, found in weights.items()}


def _load_sam(sam: SamOptions) -> "BatchedSam":
    from mmengine.device import get_device

    from s4m_pipeline.sam import BatchedSam, load_sam

    network = load_sam(sam.model, config=sam.config, weights_dir=sam.weights_dir).network
    return BatchedSam(network, device=get_device(), decoder_chunk=sam.decoder_chunk)
