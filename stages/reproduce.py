"""`s4m reproduce`: an experiment of the paper from raw files to a table of our figures beside the paper's."""

import itertools
from pathlib import Path
from typing import Annotated, Literal

import typer

from s4m_pipeline import console
from s4m_pipeline.children import call
from s4m_pipeline.errors import UserError
from s4m_pipeline.layout import STUDENT, TEACHER, WEIGHTS, experiment_folder
from s4m_pipeline.reproduction.benchmarks import CITYSCAPES, COCO, Benchmark
from s4m_pipeline.reproduction.requirements import require_all
from s4m_pipeline.reproduction.steps import Reproduction, experiment, preparation
from s4m_pipeline.reproduction.table import Comparison, compare_with_paper, write_comparison
from stages.arguments import Overrides, WorkDir

app = typer.Typer(
    help="Do an experiment of the paper, from raw files to a table of figures.", no_args_is_help=True
)

Profile = Literal["paper", "fast", "smoke"]

Percent = Annotated[int, typer.Option(help="Share of the training images that are labelled.")]
Gpus = Annotated[int, typer.Option(min=1, help="Processes to train in, one for each GPU.")]
ProfileOption = Annotated[
    Profile,
    typer.Option(
        help="paper: its schedule; smoke: the same chain on a drawn miniature; fast: not there yet."
    ),
]
Seed = Annotated[
    int, typer.Option(min=0, help="Of both trainings and of the pseudo-labels, not of the split.")
]


@app.command()
def cityscapes(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="Folder with leftImg8bit and gtFine.")],
    percent: Percent = 10,
    gpus: Gpus = 1,
    profile: ProfileOption = "paper",
    seed: Seed = 0,
    overrides: Overrides = None,
    work_dir: WorkDir = None,
) -> None:
    """Cityscapes: convert, split, three stages, both kinds of AP, and the table.

    What is done already is not done again: repeat the command after an interruption.
    """
    _reproduce(CITYSCAPES, root, percent, gpus, profile, seed, overrides, work_dir)


@app.command()
def coco(
    root: Annotated[
        Path, typer.Argument(metavar="ROOT", help="Folder with train2017, val2017 and annotations.")
    ],
    percent: Percent = 10,
    gpus: Gpus = 1,
    profile: ProfileOption = "paper",
    seed: Seed = 0,
    overrides: Overrides = None,
    work_dir: WorkDir = None,
) -> None:
    """COCO: split, three stages, AP, and the table.

    What is done already is not done again: repeat the command after an interruption.
    """
    _reproduce(COCO, root, percent, gpus, profile, seed, overrides, work_dir)


def _reproduce(
    benchmark: Benchmark,
    root: Path,
    percent: int,
    gpus: int,
    profile: Profile,
    seed: int,
    overrides: Overrides,
    work_dir: WorkDir,
) -> None:
    if percent not in benchmark.paper:
        known = ", ".join(map(str, benchmark.paper))
        raise typer.BadParameter(f"--percent {percent}: the paper has {known} for {benchmark.title}")
    if profile == "fast":
        raise UserError(
            "--profile fast: there is no schedule yet that was measured to be better than the paper's.\n"
            "Use --profile paper, or --profile smoke to try the chain."
        )
    smoke = profile == "smoke"
    if not smoke:
        changed = dict(text.split("=", 1) for text in overrides or () if "=" in text)
        require_all(benchmark, root.expanduser(), changed)
    folder = experiment_folder(benchmark.config(percent, smoke=smoke), work_dir)
    run = Reproduction(
        benchmark=benchmark,
        percent=percent,
        root=root.expanduser(),
        work_dir=folder,
        weights={stage: folder / stage / WEIGHTS for stage in (TEACHER, STUDENT)},
        devices=gpus,
        seed=seed,
        smoke=smoke,
        overrides=tuple(overrides or ()),
    )
    for step in itertools.chain(preparation(run), experiment(run)):
        console.progress.print(f"== {step.what}", soft_wrap=True)
        call(step.arguments)
    comparison = compare_with_paper(run)
    path = write_comparison(comparison, run.work_dir)
    _print(comparison)
    console.result.print(f"{path}")


def _print(comparison: Comparison) -> None:
    from rich.table import Table

    figures = Table(*comparison.columns, title=comparison.title, title_justify="left")
    for row in comparison.rows:
        figures.add_row(*row)
    facts = Table("of this run", "", show_header=False)
    for name, text in comparison.facts.items():
        facts.add_row(name, text)
    console.result.print(figures, facts)
