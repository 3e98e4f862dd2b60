"""Mask AP of a checkpoint on a split that has ground truth."""

import dataclasses
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s4m_pipeline import console
from s4m_pipeline.options.experiment import load_experiment
from s4m_pipeline.options.groups import Split

if TYPE_CHECKING:
    from torch import nn

    from s4m_pipeline.data.coco import CocoData
    from s4m_pipeline.engine.checkpoint import Weights
    from s4m_pipeline.evaluation.mask_ap import MaskAP


def evaluate(
    config: Annotated[Path, typer.Argument(help="Config that the checkpoint was trained with.")],
    checkpoint: Annotated[Path, typer.Argument(help="Weights: .safetensors, or a training checkpoint .pth.")],
    split: Annotated[Split, typer.Option(help="Part of the data, as the config names it.")] = "val",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting of the config.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    trust_checkpoint: Annotated[
        bool, typer.Option("--trust-checkpoint", help="Load the checkpoint even if its file runs code.")
    ] = False,
) -> None:
    """Print COCO mask AP (AP, AP50, AP75, by object size, by class) of a checkpoint."""
    options, parts = load_experiment(config, overrides or [])
    annotations, images = options.data.split(split)

    from s4m_pipeline.data.coco import load_coco
    from s4m_pipeline.engine.checkpoint import read_weights, require_classes
    from s4m_pipeline.evaluation.mask_ap import mask_ap
    from s4m_pipeline.evaluation.merging import merged_rate_of_results
    from s4m_pipeline.registry import register_all

    truth = load_coco(annotations, images)
    weights = read_weights(checkpoint, trust=trust_checkpoint)
    require_classes(weights, tuple(truth.class_names), str(annotations))
    register_all()
    model = _build_model(parts, weights, truth)
    predictions = _predict(model, parts, truth, options.teacher.workers)
    result = mask_ap(truth, predictions)
    merged = merged_rate_of_results(truth, predictions)
    if as_json:
        merged_or_none = None if math.isnan(merged) else merged
        print(json.dumps({**dataclasses.asdict(result), "merged_rate": merged_or_none}, indent=2))
    else:
        _print_tables(result, f"{checkpoint} on {annotations}")
        console.result.print(
            f"{merged:.1f} % of the predictions with a score of 0.5 or more cover several objects of a class"
        )


def _build_model(parts: dict[str, Any], weights: "Weights", truth: "CocoData") -> "nn.Module":
    import torch
    from mmdet.registry import MODELS

    from s4m_pipeline.engine.checkpoint import load_weights
    from s4m_pipeline.engine.parts import model_config

    model: nn.Module = MODELS.build(model_config(parts["model"], len(truth.categories)))
    load_weights(model, weights)
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def _predict(
    model: "nn.Module", parts: dict[str, Any], truth: "CocoData", workers: int
) -> list[dict[str, Any]]:
    import torch
    from mmengine.runner import Runner
    from rich.progress import track

    from s4m_pipeline.engine.parts import coco_dataset, eval_dataloader
    from s4m_pipeline.evaluation.mask_ap import coco_results

    dataset = coco_dataset(truth.json_path, truth.images_root, parts["test_pipeline"])
    loader = Runner.build_dataloader(eval_dataloader(dataset, workers=workers))
    category_ids = [category.id for category in truth.categories]
    predictions: list[dict[str, Any]] = []
    with torch.inference_mode():
        for batch in track(loader, "Predicting", console=console.progress, transient=True):
            for sample in model.test_step(batch):  # type: ignore[operator]
                predictions += coco_results(sample.img_id, category_ids, sample.pred_instances)
    return predictions


def _print_tables(result: "MaskAP", title: str) -> None:
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
    for name, value in result.per_class.items():
        by_class.add_row(name, number(value))
    console.result.print(summary, by_class)
    console.result.print(
        f"{result.images} images, {result.instances} objects, {result.predictions} predictions; "
        f"computed by {result.backend}"
    )
