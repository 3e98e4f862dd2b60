"""Mask AP of a checkpoint on a split that has ground truth, as COCO and as Cityscapes define it."""

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from s4m_pipeline.config.experiment import Options, load_experiment
from s4m_pipeline.config.groups import Split
from s4m_pipeline.config.weight_files import is_published
from s4m_pipeline.core import console
from s4m_pipeline.core.paths import CONTROL, STUDENT, TEACHER, WEIGHTS
from s4m_stages.arguments import CHECKPOINT_HELP, Overrides, TrainedConfig, TrustCheckpoint

if TYPE_CHECKING:
    from s4m_pipeline.data.coco import CocoData
    from s4m_pipeline.evaluation.checkpoint import Scores
    from s4m_pipeline.evaluation.cityscapes import CityscapesAP
    from s4m_pipeline.evaluation.mask_ap import MaskAP


def evaluate(
    config_path: TrainedConfig,
    checkpoints: Annotated[list[Path], typer.Argument(help=f"{CHECKPOINT_HELP} One or several.")],
    split: Annotated[Split, typer.Option(help="Part of the data, as the config names it.")] = "val",
    overrides: Overrides = None,
    benchmark: Annotated[
        Literal["cityscapes"] | None,
        typer.Option(help="Also score with a benchmark's own evaluator, which reads gtFine/SPLIT."),
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for predictions in its format.",
            show_default="cityscapes_SPLIT beside the weights",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON: of several checkpoints a list.")
    ] = False,
    trust_checkpoint: TrustCheckpoint = False,
) -> None:
    """Print COCO mask AP (AP, AP50, AP75, by object size, by class) of checkpoints.

    Results of a stage's finished weights are kept in the experiment's evaluation.json, and the verdict on the
    student in verdict.json; not those on different data or with a different model or test pipeline (--set).
    """
    if results and (not benchmark or len(checkpoints) > 1):
        raise typer.BadParameter("--results is where --benchmark writes, for one checkpoint: give both")
    if benchmark and not results and any(map(is_published, checkpoints)):
        raise typer.BadParameter("--benchmark on weights without a folder here needs --results")
    options, config = load_experiment(config_path, overrides or [])
    annotations, images = options.data.split(split)

    from s4m_pipeline.data.coco import load_coco
    from s4m_pipeline.evaluation.verdict import run_command, write_verdict
    from s4m_pipeline.experiment.evaluation_file import conditions, is_own

    truth = load_coco(annotations, images)
    benchmarks = {
        checkpoint: _Benchmark(truth, images, results or checkpoint.parent / f"cityscapes_{split}")
        for checkpoint in (checkpoints if benchmark else [])
    }
    measured_by = conditions(annotations, config)
    own_config = load_experiment(config_path, [])[1] if overrides else config
    records = []
    folders = set()
    for checkpoint in checkpoints:
        predictions = _predict(checkpoint, truth, options, config, trust_checkpoint)
        scores = _score(predictions, truth, benchmarks.get(checkpoint))
        records.append(scores.as_record())
        if _is_finished_stage(checkpoint) and is_own(checkpoint.parent, split, own_config, measured_by):
            nms_iou = options.refine.nms_iou
            _keep({**records[-1], "conditions": measured_by}, checkpoint, split, truth, predictions, nms_iou)
            folders.add(checkpoint.parent.parent)
        elif _is_finished_stage(checkpoint):
            console.progress.print(
                f"{checkpoint}: not recorded in evaluation.json, because this is not the experiment's "
                f"data.{split}, model or test_pipeline. Evaluate without --set to record a result.",
                soft_wrap=True,
            )
        if not as_json:
            _print_tables(scores.coco, scores.cityscapes, f"{checkpoint} on {annotations}")
            _print_merged(scores.merged_rate)
    for folder in folders:
        write_verdict(folder, options, run_command(config_path, folder, overrides or []))
    if as_json:
        print(json.dumps(records if len(records) > 1 else records[0], indent=2))


def _score(predictions: list[dict[str, Any]], truth: "CocoData", benchmark: "_Benchmark | None") -> "Scores":
    from s4m_pipeline.evaluation.checkpoint import Scores

    scores = Scores.of(truth, predictions)
    return dataclasses.replace(scores, cityscapes=benchmark.score(predictions)) if benchmark else scores


def _predict(
    checkpoint: Path, truth: "CocoData", options: Options, config: dict[str, Any], trust: bool
) -> list[dict[str, Any]]:
    """COCO results of a checkpoint that was trained for the classes of `truth`."""
    from s4m_pipeline.models.checkpoint import read_weights, require_classes
    from s4m_pipeline.models.registry import register_all

    weights = read_weights(checkpoint, trust=trust)
    require_classes(weights, tuple(truth.class_names), str(truth.json_path))
    register_all()

    from s4m_pipeline.evaluation.checkpoint import predict_split

    return predict_split(config, weights, truth, options.teacher.workers)


def _is_finished_stage(checkpoint: Path) -> bool:
    """Whether these are the finished weights of a stage of an experiment, trained there or put there."""
    return checkpoint.name == WEIGHTS and checkpoint.parent.name in (TEACHER, STUDENT, CONTROL)


def _keep(
    record: dict[str, Any],
    checkpoint: Path,
    split: Split,
    truth: "CocoData",
    predictions: list[dict[str, Any]],
    nms_iou: float | None,
) -> None:
    """Enter a result into the experiment's evaluation.json, and keep what its interval is computed from, and
    the predictions that the report shows, which are those of `s4m predict`."""
    from s4m_cache.atomic import write_text
    from s4m_pipeline.evaluation.duplicates import DUPLICATE_IOU, as_predicted
    from s4m_pipeline.evaluation.errors import MIN_SCORE
    from s4m_pipeline.evaluation.matches import Matches
    from s4m_pipeline.experiment.evaluation_file import matches_file, predictions_file, write_evaluation

    stage = checkpoint.parent
    Matches.of(truth, predictions).save(matches_file(stage, split))
    shown = as_predicted(predictions, min_score=MIN_SCORE, max_iou=nms_iou or DUPLICATE_IOU)
    write_text(predictions_file(stage, split), json.dumps(shown) + "\n")
    write_evaluation(checkpoint, split, record)


class _Benchmark:
    """The Cityscapes benchmark on one split; what is missing for it is said at once."""

    def __init__(self, truth: "CocoData", photos: Path, folder: Path) -> None:
        from s4m_pipeline.data.cityscapes.layout import ANNOTATIONS
        from s4m_pipeline.evaluation.cityscapes import claim_results, require_benchmark

        self.truth, self.folder = truth, folder
        self.annotations = require_benchmark(truth, photos.parent.parent / ANNOTATIONS / photos.name)
        claim_results(folder)

    def score(self, predictions: list[dict[str, Any]]) -> "CityscapesAP":
        from s4m_pipeline.evaluation.cityscapes import benchmark_ap, record_result, write_results

        jobs = os.cpu_count() or 1
        written = write_results(self.folder, self.truth, predictions, jobs=jobs)
        found = benchmark_ap(
            [self.annotations[image_id] for image_id in written], list(written.values()), jobs=jobs
        )
        record_result(self.folder, found)
        return found


def _print_tables(result: "MaskAP", official: "CityscapesAP | None", title: str) -> None:
    from rich.table import Table

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.1f}"

    summary = Table(title=f"Mask AP in percent\n{title}")
    names = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
    for name in names:
        summary.add_column(name, justify="right")
    summary.add_row(*(number(getattr(result, name)) for name in names))
    by_class = Table("class", title="By class")
    by_class.add_column("AP", justify="right")
    if official:
        by_class.add_column("Cityscapes AP", justify="right")
        by_class.add_column("AP50", justify="right")
    for name, value in result.per_class.items():
        of_benchmark = (official.per_class[name], official.per_class_AP50[name]) if official else ()
        by_class.add_row(name, number(value), *map(number, of_benchmark))
    if official:
        by_class.add_section()
        by_class.add_row("mean", number(result.AP), number(official.AP), number(official.AP50))
    console.result.print(summary, by_class)
    console.result.print(
        f"{result.images} images, {result.instances} objects, {result.predictions} predictions; "
        f"computed by {result.backend}"
    )


def _print_merged(rate: float) -> None:
    console.result.print(
        "all predictions count, also duplicates of an object, which `s4m predict` leaves out with low scores"
    )
    share = "no" if math.isnan(rate) else f"{rate:.1f} % of the"
    console.result.print(f"{share} predictions with a score of 0.5 or more cover several objects of a class")
