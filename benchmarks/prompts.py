"""Quality of refined masks by kind of prompt, on the demo's unlabelled scenes: the same objects for each.

Needs the demo's data, split and teacher (`s4m pretrain-teacher configs/demo/demo.py`). The teacher and SAM's
encoder run once for each image; stores nothing.
"""

from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from cache.records import Instances
from s4m_pipeline.data.coco import load_coco
from s4m_pipeline.data.unlabeled import load_unlabeled
from s4m_pipeline.engine.checkpoint import load_weights, read_weights
from s4m_pipeline.engine.parts import model_config
from s4m_pipeline.evaluation.ground_truth import truth_masks
from s4m_pipeline.evaluation.pseudo_label_quality import LabelledMasks
from s4m_pipeline.evaluation.refinement_quality import RefinementQuality
from s4m_pipeline.layout import CONFIGS, experiment_folder
from s4m_pipeline.options.experiment import load_experiment
from s4m_pipeline.refine.labeller import Labelled, Labeller
from s4m_pipeline.refine.photos import PhotoFiles, batches_by_size, load_photos, readable
from s4m_pipeline.refine.recipe import PROMPT_TYPES
from s4m_pipeline.refine.refiner import refine_masks
from s4m_pipeline.registry import register_all
from s4m_pipeline.sam import BatchedSam, load_sam
from stages.artifacts import teacher_weights

CONFIG = CONFIGS / "demo/demo.py"


def main(work_dir: Path | None = None) -> None:
    """Print SQ, CA and the share of instances improved and worsened for each kind of prompt."""
    from mmdet.registry import MODELS

    register_all()
    options, parts = load_experiment(CONFIG, [])
    data, recipe = options.data, options.refine
    assert data.unlabeled is not None and recipe.ground_truth is not None  # the demo's are given
    images_root = data.path(data.train_images)
    unlabeled = load_unlabeled(data.path(data.unlabeled), images_root)
    truth = load_coco(data.path(recipe.ground_truth), images_root)
    model = MODELS.build(model_config(parts["model"], len(truth.categories)))
    load_weights(model, read_weights(teacher_weights(experiment_folder(CONFIG, work_dir))))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sam = BatchedSam(load_sam(options.sam.model).network, device=device)
    teacher = Labeller(
        model.to(device).eval(), None, None, recipe, generation=1, batch_size=recipe.batch_size
    )
    quality: dict[str, RefinementQuality] = {
        kind: RefinementQuality(len(truth.categories)) for kind in PROMPT_TYPES
    }
    photos = readable(
        load_photos(PhotoFiles(unlabeled.images, parts["test_pipeline"]), 0, pin_memory=False), print
    )
    images = {image.id: image for image in truth.images}
    total = -(-len(unlabeled.images) // recipe.batch_size)
    for batch in track(batches_by_size(photos, recipe.batch_size, teacher.divisor_px), total=total):
        labelled = [image for image in teacher.label(batch) if len(image.kept)]
        truths = [truth_masks(truth, images[image.photo.image_id]) for image in labelled]
        _measure(sam, labelled, truths, quality)
    _print(quality, truth.class_names)


def _measure(
    sam: BatchedSam,
    labelled: list[Labelled],
    truths: list[LabelledMasks],
    quality: dict[str, RefinementQuality],
) -> None:
    if not labelled:
        return
    embeddings = sam.encode([image.photo.pixels for image in labelled])
    ids = [image.photo.image_id for image in labelled]
    for kind in PROMPT_TYPES:
        refined = refine_masks(
            sam, embeddings, [image.kept for image in labelled], ids, kind=kind, generation=1
        )
        for image, result, truth in zip(labelled, refined, truths, strict=True):
            labels = image.kept.label.cpu().numpy().astype(np.int64)
            before, after = image.teacher_masks.cpu().numpy(), result.masks.cpu().numpy()
            quality[kind].add(
                Instances.create(
                    masks=after, raw_masks=before, labels=labels, scores=image.kept.score.cpu().numpy()
                ),
                truth,
            )


def _print(quality: dict[str, RefinementQuality], classes: list[str]) -> None:
    table = Table("prompt", "SQ", "CA", "improved", "worsened", title="percent; teacher's masks first")
    for kind, measured in quality.items():
        figures = measured.as_dict(classes)
        if not table.rows:
            table.add_row("none", f"{figures['SQ before']}", f"{figures['CA before']}", "", "")
        cells = (figures[name] for name in ("SQ after", "CA after", "improved", "worsened"))
        table.add_row(kind, *map(str, cells))
    Console().print(table)
