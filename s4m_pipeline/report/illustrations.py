"""Pictures of an experiment, from its config and folder: what the commands draw, and the page takes in."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from mmengine.device import get_device
from PIL import Image

from cache.atomic import atomic_path
from cache.errors import CacheError
from s4m_pipeline.data.coco import load_coco
from s4m_pipeline.data.images import read_rgb
from s4m_pipeline.data.labelled import load_labelled
from s4m_pipeline.engine.checkpoint import read_weights, require_classes
from s4m_pipeline.errors import UserError
from s4m_pipeline.evaluation.ground_truth import truth_masks
from s4m_pipeline.models.load import load_network, named_classes
from s4m_pipeline.options.experiment import Options
from s4m_pipeline.options.groups import DataOptions
from s4m_pipeline.registry import register_all
from s4m_pipeline.report.augmentation import draw_augmentation, draw_pairs, first_step
from s4m_pipeline.report.collect import AUGMENTATION, SIMILARITY
from s4m_pipeline.sam import BatchedSam, load_configured_sam
from s4m_pipeline.student.labels import load_labels

if TYPE_CHECKING:
    from s4m_pipeline.models.mask2former import InstanceMask2Former

Point = tuple[float, float]
Note = Callable[[str], None]

IMAGES = 4
"""Of each branch, on the page."""
_POINTS = 3


def augmentation_picture(
    options: Options, parts: Mapping[str, Any], cache: Path, count: int, path: Path, note: Note
) -> None:
    """Draw `count` images of each branch as the first step of the student's training has them.

    Args:
        parts: the whole config as plain values.
        note: told why the unlabelled branch is left out, when there are no labels for it.

    Raises:
        UserError: if the config has no student, or its data are at fault.
    """
    student = options.require_student()
    train, _ = load_labelled(options.data)
    sizes, labels = (student.batch_size, student.unlabeled_batch_size), None
    if student.source == "cache":
        try:
            labels = load_labels(options.data, cache, None, train)
        except CacheError as error:
            note(f"Only the labelled branch is drawn: {error}")
            sizes = (student.batch_size, 0)
    labelled, unlabelled = (max(size, count) if size else 0 for size in sizes)
    step = first_step(student, parts, train, labels, (labelled, unlabelled))
    names = [transform["type"] for transform in parts["train_pipeline"]]
    between = [name for name in names if not name.startswith(("Load", "Pack"))]
    _save(draw_augmentation(step, train.class_names, between, count), path)


def arp_picture(options: Options, parts: Mapping[str, Any], cache: Path, num_pairs: int, path: Path) -> None:
    """Draw a training's first unlabelled images before and after ARP, which here pairs all of them.

    Raises:
        UserError: if the config has no student, or one without ARP, or its data are at fault.
        CacheError: if there are no labels.
    """
    student = options.require_student()
    if student.arp.fraction == 0:
        raise UserError("student.arp.fraction is 0: this student does without ARP.")
    student = dataclasses.replace(student, arp=dataclasses.replace(student.arp, fraction=1.0))
    train, _ = load_labelled(options.data)
    labels = None if student.source == "labeled" else load_labels(options.data, cache, None, train)
    step = first_step(student, parts, train, labels, (0, 2 * num_pairs))
    _save(draw_pairs(step, train.class_names), path)


def similarity_picture(
    options: Options,
    parts: Mapping[str, Any],
    checkpoints: Mapping[str, Path],
    image: Path,
    points: Sequence[Point],
    path: Path,
    *,
    trust: bool = False,
) -> None:
    """Draw what SAM 2 and the networks of `checkpoints`, by their titles, find similar to points of an image.

    Args:
        trust: load a .pth even if its file runs code.

    Raises:
        UserError: if a file cannot be read, or the networks are of other classes than one another.
    """
    register_all()

    from s4m_pipeline.report.similarity import Column, draw, network_maps, sam_maps

    pixels, _ = read_rgb(image)
    networks = _load_networks(parts, checkpoints, trust)
    network = load_configured_sam(options.sam).network
    batched = BatchedSam(network, device=get_device(), decoder_chunk=options.sam.decoder_chunk)
    sam = sam_maps(batched, pixels, points, options.sd.target)
    columns = [
        Column(title="SAM 2", subtitle=f"{options.sam.model}, {options.sd.target}", maps_Phw=sam.maps_Phw)
    ]
    for title, network in networks.items():
        maps = network_maps(network, parts["test_pipeline"], image, sam)
        distance = float((maps - sam.maps_Phw).abs().mean())
        subtitle = str(checkpoints[title])
        columns.append(Column(title=f"{title}, {distance:.3f} from SAM", subtitle=subtitle, maps_Phw=maps))
    _save(draw(pixels, points, columns), path)


def _save(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        picture.save(temporary, "PNG")


def _load_networks(
    parts: Mapping[str, Any], checkpoints: Mapping[str, Path], trust: bool
) -> dict[str, "InstanceMask2Former"]:
    """The network of each checkpoint; all must have been trained for the same classes."""
    weights = {title: read_weights(path, trust=trust) for title, path in checkpoints.items()}
    first, *others = weights.values()
    classes = named_classes(first)
    for other in others:
        require_classes(other, classes, str(first.path))
    return {title: load_network(parts, found, len(classes)) for title, found in weights.items()}


def draw_outdated(
    folder: Path,
    cache: Path,
    weights: Mapping[str, Path],
    options: Options,
    parts: Mapping[str, Any],
    note: Note,
) -> None:
    """Draw the page's pictures that are absent, or older than the training they show.

    Nothing that goes wrong ends it: a page without a picture is better than none.

    Args:
        weights: of the finished trainings, by `teacher`, `student`.
        note: told which picture could not be drawn, and why.
    """

    def similarity(path: Path) -> None:
        image, points = _noteworthy_points(options.data)
        similarity_picture(options, parts, {"teacher": weights["teacher"]}, image, points, path)

    def augmentation(path: Path) -> None:
        augmentation_picture(options, parts, cache, IMAGES, path, note)

    pictures = [(SIMILARITY, similarity, weights.get("teacher"))] if "teacher" in weights else []
    if options.student is not None:
        pictures.append((AUGMENTATION, augmentation, weights.get("student", weights.get("teacher"))))
    for name, picture, training in pictures:
        path = folder / name
        if path.exists() and (training is None or path.stat().st_mtime >= training.stat().st_mtime):
            continue
        try:
            picture(path)
        except Exception as error:
            kind = "" if isinstance(error, UserError | CacheError) else f"{type(error).__name__}: "
            note(f"{name} could not be drawn: {kind}{error}")


def _noteworthy_points(data: DataOptions) -> tuple[Path, list[Point]]:
    """Of the first 50 validation images the one with most objects; points deep inside its largest ones."""
    val = load_coco(*data.split("val"))
    image = max(val.images[:50], key=lambda image: len(val.instances(image.id)))
    masks = truth_masks(val, image).masks
    largest = masks[np.argsort(-masks.sum((1, 2)), kind="stable")[:_POINTS]]
    return image.path, [_deepest(mask) for mask in largest]


def _deepest(mask: np.ndarray) -> Point:
    """The pixel (x, y) of a mask that is farthest from its outline."""
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return float(x), float(y)
