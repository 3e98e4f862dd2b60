"""A picture to look at before hours are spent: photos, the teacher's masks, and the refined ones beside."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from s4m_pipeline.config.groups import PromptType
from s4m_pipeline.core import console
from s4m_pipeline.data.coco_entries import CocoImage
from s4m_pipeline.refine.choice import best_prompt, decide_masks, with_choice
from s4m_pipeline.refine.comparison import comparison_tables
from s4m_pipeline.refine.images import Photo, PhotoFiles, load_photos, readable
from s4m_pipeline.refine.inputs import Networks, RefineInputs, networks_on_device
from s4m_pipeline.refine.labeler import build_labeler
from s4m_pipeline.refine.labels import Labels
from s4m_pipeline.refine.validation import count_on
from s4m_pipeline.visual.painting import paint
from s4m_pipeline.visual.sheets import fitted, sheet

VALIDATION_IMAGES = 100
"""At most so many validation images, spread over the list, are measured for a preview."""


def preview_labels(inputs: RefineInputs, generation: int, count: int, path: Path) -> Path:
    """Draw the labels of images spread over the list, and compare masks on the validation images.

    With `refine.prompt=auto` the prompt of highest PQ is drawn.

    Args:
        generation: number of the one that would have these labels.
        count: images to draw.
        path: of the PNG.
    """
    files = PhotoFiles(_spread(inputs.unlabeled.images, count), inputs.config["test_pipeline"])
    rows = []
    with networks_on_device(inputs) as networks:
        prompt = _compare(inputs, networks)
        labeler = build_labeler(inputs, networks, generation)
        photos = readable(load_photos(files, 0, pin_memory=False), lambda image: None)
        for batch in labeler.batches(photos):
            for photo, labels in zip(batch, labeler.label(batch, [prompt]), strict=True):
                rows.append(
                    _row(photo, labels[prompt], inputs.labeled.class_names, refined=prompt is not None)
                )
    titles = ["photo", "teacher: class and score", f"{prompt}: IoU as SAM predicts it"]
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet(rows, titles).save(path)
    return path


def _compare(inputs: RefineInputs, networks: Networks) -> PromptType | None:
    """Print figures of each kind of masks; returns the prompt to draw."""
    configured = inputs.options.refine.prompt
    fallback = None if configured == "auto" else configured
    if inputs.held_out is None or not inputs.held_out.images:
        return fallback
    images = _spread(inputs.held_out.images, VALIDATION_IMAGES)
    counts = count_on(inputs, images, networks, stop=lambda: False)
    assert counts is not None  # nobody stops it
    choice = decide_masks(inputs.options.refine, inputs.options.student, counts)
    compared = with_choice(counts, choice).compared(inputs.labeled.class_names)
    for table in comparison_tables(compared, choice.kind or "none"):
        console.result.print(table)
    console.result.print(f"A generation would get {choice.text}.")
    return best_prompt(counts) if configured == "auto" else configured


def _spread(images: Sequence[CocoImage], count: int) -> Sequence[CocoImage]:
    return images[:: max(1, len(images) // count)][:count]


def _row(photo: Photo, labels: Labels, classes: Sequence[str], *, refined: bool) -> list[Image.Image]:
    pixels = fitted(photo.pixels.permute(1, 2, 0).numpy())
    window = (0, 0, *labels.image_hw_px)
    scores = [
        f"{classes[label]} {score:.2f}" for label, score in zip(labels.label, labels.score, strict=True)
    ]
    colors = range(len(scores))
    tiles = [Image.fromarray(pixels), paint(pixels, labels.teacher_masks.each(window), scores, colors)]
    if refined:
        texts = [f"{iou:.2f}" for iou in labels.predicted_iou]
        tiles.append(paint(pixels, labels.refined_masks.each(window), texts, colors))
    return tiles
