"""A picture to look at before hours are spent: photos, the teacher's masks, and the refined ones beside."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from s4m_pipeline.painting import paint
from s4m_pipeline.refine.build import build_labeller, networks_on_device, photo_files
from s4m_pipeline.refine.inputs import RefineInputs
from s4m_pipeline.refine.labeller import Labelled
from s4m_pipeline.refine.photos import batches_by_size, load_photos, readable
from s4m_pipeline.report.sheets import fitted, sheet


def preview_labels(inputs: RefineInputs, generation: int, count: int, path: Path) -> Path:
    """Draw the labels of images spread over the list, as in a generation of that number."""
    images = inputs.unlabeled.images
    files = photo_files(inputs, images[:: max(1, len(images) // count)][:count])
    with networks_on_device(inputs) as networks:
        labeller = build_labeller(inputs, networks, generation)
        photos = readable(load_photos(files, 0, pin_memory=False), lambda image: None)
        labelled = [
            image
            for batch in batches_by_size(photos, labeller.batch_size, labeller.divisor_px)
            for image in labeller.label(batch)
        ]
        draw_preview(labelled, inputs.labelled.class_names, path)
    return path


def draw_preview(images: Sequence[Labelled], classes: Sequence[str], path: Path) -> None:
    """Write a PNG with a row for each image: photo, teacher's masks with scores, SAM's with predicted IoU."""
    rows = [_row(image, classes) for image in images]
    titles = ["photo", "teacher: class and score", "refined: IoU as SAM predicts it"]
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet(rows, titles).save(path)


def _row(image: Labelled, classes: Sequence[str]) -> list[Image.Image]:
    photo = fitted(image.photo.pixels.permute(1, 2, 0).numpy())
    names = [classes[label] for label in image.kept.label.tolist()]
    scores = [f"{name} {score:.2f}" for name, score in zip(names, image.kept.score.tolist(), strict=True)]
    colours = range(len(image.kept))
    tiles = [Image.fromarray(photo), paint(photo, image.teacher_masks.cpu().numpy(), scores, colours)]
    if image.refined is not None:
        texts = [f"{iou:.2f}" for iou in image.refined.predicted_iou.tolist()]
        tiles.append(paint(photo, image.refined.masks.cpu().numpy(), texts, colours))
    return tiles
