"""Draw the pictures of an experiment from its config and folder."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from mmengine.device import get_device
from PIL import Image

from s4m_cache.atomic import atomic_path
from s4m_cache.errors import CacheError
from s4m_pipeline.apps.report.augmentation import draw_augmentation, first_batch
from s4m_pipeline.apps.report.collect import AUGMENTATION, SIMILARITY
from s4m_pipeline.config.experiment import Options
from s4m_pipeline.config.groups import DataOptions
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.data.coco import load_coco
from s4m_pipeline.data.images import read_rgb
from s4m_pipeline.data.labeled import load_labeled
from s4m_pipeline.evaluation.ground_truth import truth_masks
from s4m_pipeline.models.checkpoint import read_weights, require_classes
from s4m_pipeline.models.load import load_network, named_classes
from s4m_pipeline.models.registry import register_all
from s4m_pipeline.sam import BatchedSam, load_configured_sam
from s4m_pipeline.student.labels import labels_of_source

if TYPE_CHECKING:
    from s4m_pipeline.models.mask2former import InstanceMask2Former

Point = tuple[float, float]
Note = Callable[[str], None]

IMAGES = 4
"""Images of each branch in the report's picture."""
_POINTS = 3


def augmentation_picture(
    options: Options, config: Mapping[str, Any], cache: Path, count: int, path: Path, note: Note
) -> None:
    """Draw `count` images of each branch in the first iteration of the student's training.

    Args:
        config: the whole config as plain values.
        note: called with the reason if the unlabeled branch is left out.

    Raises:
        UserError: if the config has no student, or its data are faulty.
    """
    student = options.require_student()
    train, _ = load_labeled(options.data)
    sizes = (student.batch_size, student.unlabeled_batch_size)
    try:
        labels = labels_of_source(options, cache, None, train)
    except CacheError as error:
        note(f"Only the labeled branch is drawn: {error}")
        sizes, labels = (student.batch_size, 0), None
    labeled, unlabeled = (max(size, count) if size else 0 for size in sizes)
    batch = first_batch(student, config, train, labels, (labeled, unlabeled))
    names = [transform["type"] for transform in config["train_pipeline"]]
    between = [name for name in names if not name.startswith(("Load", "Pack"))]
    _save(draw_augmentation(batch, train.class_names, between, count), path)


def similarity_picture(
    options: Options,
    config: Mapping[str, Any],
    checkpoints: Mapping[str, Path],
    image: Path,
    points: Sequence[Point],
    path: Path,
    *,
    trust: bool = False,
) -> None:
    """Draw the similarity to points of an image, by SAM 2 and by the networks of `checkpoints` (by title).

    Args:
        trust: load a .pth even if its file runs code.

    Raises:
        UserError: if a file cannot be read, or the networks have different classes.
    """
    register_all()

    from s4m_pipeline.apps.report.similarity import Column, draw, network_maps, sam_maps

    pixels, _ = read_rgb(image)
    networks = _load_networks(config, checkpoints, trust)
    network = load_configured_sam(options.sam).network
    batched = BatchedSam(network, device=get_device(), decoder_chunk=options.sam.decoder_chunk)
    sam = sam_maps(batched, pixels, points, options.sd.target)
    columns = [
        Column(title="SAM 2", subtitle=f"{options.sam.model}, {options.sd.target}", maps_Phw=sam.maps_Phw)
    ]
    for title, network in networks.items():
        maps = network_maps(network, config["test_pipeline"], image, sam)
        distance = float((maps - sam.maps_Phw).abs().mean())
        subtitle = str(checkpoints[title])
        title = f"{title}, mean difference {distance:.3f}"
        columns.append(Column(title=title, subtitle=subtitle, maps_Phw=maps))
    _save(draw(pixels, points, columns), path)


def _save(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        picture.save(temporary, "PNG")


def _load_networks(
    config: Mapping[str, Any], checkpoints: Mapping[str, Path], trust: bool
) -> dict[str, "InstanceMask2Former"]:
    """The network of each checkpoint; all must have the same classes."""
    weights = {title: read_weights(path, trust=trust) for title, path in checkpoints.items()}
    first, *others = weights.values()
    classes = named_classes(first)
    for other in others:
        require_classes(other, classes, str(first.path))
    return {title: load_network(config, found, len(classes)) for title, found in weights.items()}


def draw_outdated(
    folder: Path,
    cache: Path,
    weights: Mapping[str, Path],
    options: Options,
    config: Mapping[str, Any],
    note: Note,
) -> None:
    """Draw the report's pictures that are missing, or older than the weights of their training.

    Errors are reported with `note` and not raised: a report without a picture is better than none.

    Args:
        weights: of the finished trainings, by `teacher`, `student`.
        note: called with a message for each picture that could not be drawn.
    """

    def similarity(path: Path) -> None:
        image, points = _example_points(options.data)
        similarity_picture(options, config, {"teacher": weights["teacher"]}, image, points, path)

    def augmentation(path: Path) -> None:
        augmentation_picture(options, config, cache, IMAGES, path, note)

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


def _example_points(data: DataOptions) -> tuple[Path, list[Point]]:
    """The image with most objects of the first 50 validation images, and points inside its largest ones."""
    val = load_coco(*data.split("val"))
    image = max(val.images[:50], key=lambda image: len(val.instances(image.id)))
    masks = truth_masks(val, image).masks
    largest = masks.select(np.argsort(-masks.areas, kind="stable")[:_POINTS])
    return image.path, [_innermost_point(mask) for mask in largest.each((0, 0, image.height, image.width))]


def _innermost_point(mask: np.ndarray) -> Point:
    """The pixel (x, y) of a mask that is farthest from its outline."""
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return float(x), float(y)
