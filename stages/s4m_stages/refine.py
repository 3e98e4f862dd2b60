"""Stage 2: pseudo-labels of the unlabeled images by teacher and SAM 2, in shards, into the cache."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from s4m_pipeline.config.experiment import load_experiment
from s4m_pipeline.core import console
from s4m_pipeline.core.launchers import LAUNCHERS, LauncherName, Shards
from s4m_pipeline.core.paths import JOBS, STUDENT, experiment_folder
from s4m_pipeline.core.processes import visible_gpus
from s4m_pipeline.core.signals import SignalReceiver
from s4m_pipeline.experiment.cache_place import note_cache
from s4m_pipeline.experiment.checkpoints import teacher_weights
from s4m_stages.arguments import Config, Overrides, TrustCheckpoint, WorkDir

if TYPE_CHECKING:
    from s4m_cache.sharding import ShardSpec


def refine(
    config_path: Config,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="i/n", help="Shard of the images.", show_default="of a job array, or one for each GPU"
        ),
    ] = None,
    generation: Annotated[
        int | None,
        typer.Option(
            "--generation", "-g", min=1, help="Number of the generation.", show_default="the newest"
        ),
    ] = None,
    teacher: Annotated[
        Path | None,
        typer.Option(
            help="Checkpoint, or published weights.", show_default="the experiment's finished teacher"
        ),
    ] = None,
    preview: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Draw the labels of N images; store nothing.")
    ] = None,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow", help="Beside a training: label again with each newest checkpoint of the student."
        ),
    ] = False,
    ground_truth: Annotated[
        Path | None,
        typer.Option(help="COCO JSON to measure the labels by.", show_default="refine.ground_truth"),
    ] = None,
    launcher: Annotated[
        LauncherName, typer.Option(help="Where all shards are run: this machine, SLURM's job array, or Ray.")
    ] = "local",
    workers: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Shards labeled at a time.", show_default="number of GPUs"),
    ] = None,
    overrides: Overrides = None,
    work_dir: WorkDir = None,
    trust_checkpoint: TrustCheckpoint = False,
) -> None:
    """Label the unlabeled images; an interrupted run resumes with the images that have no labels yet."""
    if follow and (generation or preview):
        raise typer.BadParameter("--follow numbers its generations itself and draws nothing")
    if launcher != "local" and (follow or preview or workers is None):
        raise typer.BadParameter(f"--launcher {launcher} needs --workers N, and neither follows nor previews")
    options, config = load_experiment(config_path, overrides or [])
    if ground_truth is not None:
        recipe = options.refine.model_copy(update={"ground_truth": str(ground_truth.absolute())})
        options = options.model_copy(update={"refine": recipe})
    experiment = experiment_folder(config_path, work_dir)
    root = options.cache.folder(experiment)
    if preview is None:
        note_cache(experiment, options.cache.root)
    part = _part(shard)
    workers = workers or len(visible_gpus())
    if part is None and preview is None and (launcher != "local" or workers > 1):
        cpus = 1 + options.refine.loaders
        raise SystemExit(LAUNCHERS[launcher](Shards(sys.argv[1:], workers, cpus, experiment / JOBS)))
    from s4m_cache.sharding import ShardSpec
    from s4m_pipeline.refine.follow import follow as follow_training
    from s4m_pipeline.refine.generation import begin_generation, label_shards
    from s4m_pipeline.refine.inputs import load_inputs
    from s4m_pipeline.refine.preview import preview_labels
    from s4m_pipeline.refine.publish import publish_if_complete

    inputs = load_inputs(options, config, teacher or teacher_weights(experiment), trust=trust_checkpoint)
    part = part or ShardSpec(1, 1)
    if preview is not None:
        path = preview_labels(inputs, generation or 1, preview, experiment / "preview.png")
    elif follow:
        path = root
        with _stop_on_signal() as stop:
            follow_training(inputs, root, experiment / STUDENT, part, stop=stop)
    else:
        labels = begin_generation(inputs, root, generation, part.count, part)
        path = labels.path
        if labels.published() is None:
            with _stop_on_signal() as stop:
                label_shards(inputs, labels, part, stop=stop)
        if publish_if_complete(inputs, labels).decision == "rejected":
            raise SystemExit(1)
    console.result.print(f"{path}")


def _part(shard: str | None) -> "ShardSpec | None":
    from s4m_cache.sharding import ShardSpec

    return ShardSpec.parse(shard) if shard else ShardSpec.from_environment(os.environ)


@contextmanager
def _stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Gives a function for the work to ask whether to stop; if it was told so, exits at the end."""
    signals = SignalReceiver()
    told: list[int] = []

    def stop() -> bool:
        if signals.received:
            told.append(signals.received)
        return bool(told)

    with signals.listening():
        yield stop
    if told:
        console.progress.print("Stopped by a signal; the same command resumes from there.")
        raise SystemExit(128 + told[0])
