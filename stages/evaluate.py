"""Mask AP of a checkpoint on a split that has ground truth, as COCO and as Cityscapes define it."""

import dataclasses
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from s4m_pipeline import console
from s4m_pipeline.options.experiment import load_experiment
from s4m_pipeline.options.groups import Split
from stages.arguments import Checkpoint, Overrides, TrainedConfig, TrustCheckpoint
from stages.artifacts import STUDENT, TEACHER, WEIGHTS, read_run

if TYPE_CHECKING:
    from s4m_pipeline.data.coco import CocoData
    from s4m_pipeline.evaluation.cityscapes import CityscapesAP
    from s4m_pipeline.evaluation.mask_ap import MaskAP


def evaluate(
    config: TrainedConfig,
    checkpoint: Checkpoint,
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
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    trust_checkpoint: TrustCheckpoint = False,
) -> None:
    """Print COCO mask AP (AP, AP50, AP75, by object size, by class) of a checkpoint.

    Results of a stage's finished weights are kept in the experiment's evaluation.json, for the report.
    """
    if results and not benchmark:
        raise typer.BadParameter("--results is where --benchmark writes: give both")
    options, parts = load_experiment(config, overrides or [])
    annotations, images = options.data.split(split)

    from s4m_pipeline.data.coco import load_coco
    from s4m_pipeline.engine.checkpoint import read_weights, require_classes
    from s4m_pipeline.registry import register_all

    truth = load_coco(annotations, images)
    scored = None
    if benchmark:
        scored = _Benchmark(truth, images, results or checkpoint.parent / f"cityscapes_{split}")
    weights = read_weights(checkpoint, trust=trust_checkpoint)
    require_classes(weights, tuple(truth.class_names), str(annotations))
    register_all()

    from s4m_pipeline.evaluation.checkpoint import as_record, predict_split
    from s4m_pipeline.evaluation.mask_ap import mask_ap
    from s4m_pipeline.evaluation.merging import merged_rate_of_results
    from s4m_pipeline.evaluation.results import keep_result

    predictions = predict_split(parts, weights, truth, options.teacher.workers)
    result = mask_ap(truth, predictions)
    merged = merged_rate_of_results(truth, predictions)
    official = scored.score(predictions) if scored else None
    report = as_record(result, merged)
    if official:
        report["cityscapes"] = dataclasses.asdict(official)
    stage = checkpoint.parent
    if checkpoint.name == WEIGHTS and stage.name in (TEACHER, STUDENT) and read_run(stage):
        keep_result(stage.parent, split, stage.name, checkpoint, report)
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        _print_tables(result, official, f"{checkpoint} on {annotations}")
        share = "no" if math.isnan(merged) else f"{merged:.1f} % of the"
        console.result.print(
            f"{share} predictions with a score of 0.5 or more cover several objects of a class"
        )


class _Benchmark:
    """The Cityscapes benchmark on one split; what is missing for it is said at once."""

    def __init__(self, truth: "CocoData", photos: Path, folder: Path) -> None:
        from s4m_pipeline.data.cityscapes.layout import ANNOTATIONS
        from s4m_pipeline.evaluation.cityscapes import claim_results, require_benchmark

        self.truth, self.folder = truth, folder
        self.annotations = require_benchmark(truth, photos.parent.parent / ANNOTATIONS / photos.name)
        claim_results(folder)

    def score(self, predictions: list[dict[str, Any]]) -> "CityscapesAP":
        import os

        from rich.progress import Progress

        from s4m_pipeline.evaluation.cityscapes import benchmark_ap, record_result, write_results

        jobs = os.cpu_count() or 1
        written = write_results(self.folder, self.truth, predictions, jobs=jobs)
        with Progress(console=console.progress, transient=True) as bar:
            task = bar.add_task("Cityscapes' evaluator", total=len(written))
            found = benchmark_ap(
                [self.annotations[image_id] for image_id in written],
                list(written.values()),
                jobs=jobs,
                progress=lambda: bar.advance(task),
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
