"""`s4m reproduce`: an experiment of the paper, from raw files to a table of our figures and the paper's."""

import itertools
from pathlib import Path
from typing import Annotated, Literal

import typer

from s4m_pipeline.apps.reproduce.requirements import released_networks, require_all
from s4m_pipeline.apps.reproduce.steps import Reproduction, experiment, preparation
from s4m_pipeline.apps.reproduce.table import compare_with_paper, write_comparison
from s4m_pipeline.config.methods import MethodName, read_method
from s4m_pipeline.config.published import CITYSCAPES, COCO
from s4m_pipeline.core import console
from s4m_pipeline.core.paths import STUDENT, TEACHER, WEIGHTS
from s4m_pipeline.core.processes import call
from s4m_stages.arguments import Overrides, OverwriteChanged, WorkDir

BENCHMARKS = {"cityscapes": CITYSCAPES, "coco": COCO}


def reproduce(
    name: Annotated[
        Literal["cityscapes", "coco"], typer.Argument(metavar="DATASET", help="cityscapes or coco.")
    ],
    root: Annotated[
        Path,
        typer.Argument(
            metavar="ROOT",
            help="Folder with leftImg8bit and gtFine, or with train2017, val2017 and annotations.",
        ),
    ],
    percent: Annotated[int, typer.Option(help="Percentage of the training images that are labeled.")] = 10,
    devices: Annotated[int, typer.Option(min=1, help="Processes to train in, one for each GPU.")] = 1,
    profile: Annotated[
        Literal["paper", "smoke"],
        typer.Option(help="paper: its schedule; smoke: the same chain on a drawn miniature."),
    ] = "paper",
    seed: Annotated[
        int, typer.Option(min=0, help="Of both trainings and of the pseudo-labels, not of the split.")
    ] = 0,
    split_list: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Label the images of a published list, as data_splits/cityscapes/perc_10.txt.",
        ),
    ] = None,
    released: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Evaluate the published networks in teacher.pth and student.pth of this folder.",
        ),
    ] = None,
    first: Annotated[
        Literal["student"] | None,
        typer.Option("--from", help="With --released: train a student from the published teacher."),
    ] = None,
    method: Annotated[
        MethodName | None,
        typer.Option(help="Train with the recipe of another method.", show_default="the paper's"),
    ] = None,
    overrides: Overrides = None,
    work_dir: WorkDir = None,
    overwrite: OverwriteChanged = False,
) -> None:
    """Run an experiment of the paper: convert (Cityscapes), split, three stages, AP, and the table.

    With --released, the authors' networks are evaluated in place of the stages, or one trains on from them.
    Finished steps are skipped: repeat the command after an interruption.
    """
    benchmark = BENCHMARKS[name]
    if percent not in benchmark.paper:
        known = ", ".join(map(str, benchmark.paper))
        raise typer.BadParameter(f"--percent {percent}: the paper has {known} for {benchmark.title}")
    if first is not None and released is None:
        raise typer.BadParameter("--from student goes with --released: it starts from the published teacher")
    if split_list is not None and not split_list.is_file():
        raise typer.BadParameter(f"--split-list {split_list}: no such file")
    smoke = profile == "smoke"
    overrides = [*(read_method(method).settings if method else ()), *(overrides or ())]
    trains = released is None or first is not None
    if not smoke:
        changed = dict(text.split("=", 1) for text in overrides if "=" in text)
        require_all(benchmark, root.expanduser(), changed, trains=trains)
    published = None if released is None else released_networks(released, [first] if first else [])
    size = "smoke" if smoke else f"{percent:02d}"
    suffix = "" if released is None else "_from_released" if trains else "_released"
    suffix += f"_{method}" if method else ""
    folder = work_dir or Path(f"work_dirs/{benchmark.name}_{size}{suffix}")
    run = Reproduction(
        benchmark=benchmark,
        percent=percent,
        root=root.expanduser(),
        work_dir=folder,
        weights={stage: folder / stage / WEIGHTS for stage in (TEACHER, STUDENT)},
        devices=devices,
        seed=seed,
        smoke=smoke,
        method=method,
        overrides=tuple(overrides),
        overwrite=overwrite,
        split_list=split_list,
        released=published,
        trains=trains,
    )
    for step in itertools.chain(preparation(run), experiment(run)):
        console.progress.print(f"== {step.what}", soft_wrap=True)
        call(step.arguments)
    comparison = compare_with_paper(run)
    path = write_comparison(comparison, run.work_dir)
    console.print_table(comparison.title, comparison.columns, comparison.rows)
    console.print_table("", ["of this run", ""], list(comparison.facts.items()))
    console.result.print(f"{path}")
