"""Stage 2: pseudo-labels of the unlabelled images by teacher and SAM 2, in shards, into the cache."""

import dataclasses
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from s4m_pipeline import console
from s4m_pipeline.layout import CACHE, STUDENT, experiment_folder
from s4m_pipeline.options.experiment import load_experiment
from stages.arguments import Config, Overrides, TrustCheckpoint, WorkDir
from stages.artifacts import is_running, read_run, teacher_weights

if TYPE_CHECKING:
    from cache.sharding import ShardSpec
    from s4m_pipeline.refine.follow import State
    from s4m_pipeline.refine.inputs import RefineInputs


def refine(
    config: Config,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="i/n", help="Share of the images.", show_default="of a job array, or one for each GPU"
        ),
    ] = None,
    generation: Annotated[
        int | None,
        typer.Option(
            "--generation", "-g", min=1, help="Number of the generation.", show_default="the newest"
        ),
    ] = None,
    teacher: Annotated[
        Path | None, typer.Option(help="Checkpoint.", show_default="the experiment's finished teacher")
    ] = None,
    preview: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Draw the labels of N images; store nothing.")
    ] = None,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow", help="Beside a training: label anew with each newest checkpoint of the student."
        ),
    ] = False,
    ground_truth: Annotated[
        Path | None,
        typer.Option(help="COCO JSON to measure the labels by.", show_default="refine.ground_truth"),
    ] = None,
    overrides: Overrides = None,
    work_dir: WorkDir = None,
    trust_checkpoint: TrustCheckpoint = False,
) -> None:
    """Label the unlabelled images; a run that was interrupted goes on with what has no labels yet."""
    if follow and (generation or preview):
        raise typer.BadParameter("--follow numbers its generations itself and draws nothing")
    options, parts = load_experiment(config, overrides or [])
    if ground_truth is not None:
        recipe = dataclasses.replace(options.refine, ground_truth=str(ground_truth.absolute()))
        options = dataclasses.replace(options, refine=recipe)
    experiment = experiment_folder(config, work_dir)
    share = _share(shard)
    if share is None and preview is None and len(gpus := _visible_gpus()) > 1:
        from s4m_pipeline.refine.fan_out import run_shards

        raise SystemExit(run_shards(sys.argv[1:], gpus))
    from s4m_pipeline.refine.inputs import load_inputs

    inputs = load_inputs(options, parts, teacher or teacher_weights(experiment), trust=trust_checkpoint)
    if preview is not None:
        from s4m_pipeline.refine.preview import preview_labels

        path = preview_labels(inputs, generation or 1, preview, experiment / "preview.png")
    elif follow:
        path = _follow(inputs, experiment, share)
    else:
        path = _label(inputs, experiment / CACHE, share, generation)
    console.result.print(f"{path}")


def _share(shard: str | None) -> "ShardSpec | None":
    from cache.sharding import ShardSpec

    return ShardSpec.parse(shard) if shard else ShardSpec.from_environment(os.environ)


def _visible_gpus() -> list[str]:
    from s4m_pipeline.refine.fan_out import visible_gpus

    return visible_gpus()


def _label(inputs: "RefineInputs", root: Path, share: "ShardSpec | None", number: int | None) -> Path:
    """Label a share, or all images, and publish what is complete; returns the generation's folder."""
    from cache.sharding import ShardSpec
    from s4m_pipeline.refine.session import begin_generation, label_share_of, publish_if_complete

    share = share or ShardSpec(1, 1)
    generation = begin_generation(inputs, root, number, share.count)
    if generation.published() is None:
        _until_stopped(lambda stop: label_share_of(inputs, generation, share, stop=stop))
    if publish_if_complete(inputs, generation).word == "rejected":
        raise SystemExit(1)
    return generation.path


def _follow(inputs: "RefineInputs", experiment: Path, share: "ShardSpec | None") -> Path:
    """Refresh the labels while the student is trained; returns the cache's folder once training has ended."""
    from cache.sharding import ShardSpec
    from s4m_pipeline.refine.follow import follow

    root, folder = experiment / CACHE, experiment / STUDENT
    share = share or ShardSpec(1, 1)

    _until_stopped(
        lambda stop: follow(
            inputs, root, folder, share, training=lambda: state_of_training(folder), stop=stop
        )
    )
    return root


def state_of_training(folder: Path) -> "State":
    """What the training in a folder does at this moment, on whatever machine."""
    running = is_running(folder)  # asked first: who let go of the folder has said how it ended
    if (read_run(folder) or {}).get("status") in ("finished", "failed"):
        return "ended"
    return "running" if running else "absent"


def _until_stopped(work: Callable[[Callable[[], bool]], bool]) -> None:
    """Do work that asks whether a signal has come, and returns False if it ended for that; then exit."""
    from s4m_pipeline.engine.hooks import StopOnSignal

    stop = StopOnSignal()
    with stop.listening():
        done = work(lambda: bool(stop.received))
    if not done:
        console.progress.print("Stopped by a signal; the same command goes on from there.")
        raise SystemExit(128 + stop.received)
