"""The unlabeled images of an experiment whose labels would teach most, from its pseudo-labels alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from s4m_cache.atomic import atomic_path, write_text
from s4m_cache.compare import compare_image
from s4m_cache.generation import Generation
from s4m_cache.generations import generations
from s4m_cache.reader import CacheReader
from s4m_pipeline.apps.suggest.ranking import changed_fraction, percentile, spread
from s4m_pipeline.config.groups import DataOptions
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.core.paths import SUGGESTED, SUGGESTED_SHEET
from s4m_pipeline.core.progress import track
from s4m_pipeline.data.coco import CocoData, load_coco
from s4m_pipeline.data.coco_entries import CocoImage
from s4m_pipeline.data.images import ImageError, read_rgb
from s4m_pipeline.data.unlabeled import require_same_list, unlabeled_of
from s4m_pipeline.experiment.cache_place import experiment_cache
from s4m_pipeline.visual.painting import paint
from s4m_pipeline.visual.sheets import fitted, sheet

SHORTLIST = 1000
"""Images of highest score that are opened and compared; the others cannot be chosen."""
_THUMBNAIL_PX = 8
_COLUMNS = 4
_CAPTION_PX = 40
Values = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """An unlabeled image, and why it is suggested."""

    image: CocoImage
    reasons: Mapping[str, float]
    """Rank among all unlabeled images by each signal, from 0 (least) to 1 (most)."""


def suggest(folder: Path, data: DataOptions, count: int, note: Callable[[str], None]) -> list[Suggestion]:
    """The images to label next, the most useful first.

    Args:
        folder: of the experiment.
        data: its data.
        note: called with the name of each image that cannot be read, and is left out.

    Raises:
        UserError: if there are no unlabeled images, or none can be read.
        CacheError: if there are no published labels, they are damaged, or were made for different images.
    """
    unlabeled = unlabeled_of(data)
    labeled = load_coco(data.path(data.labeled), data.path(data.train_images))
    with CacheReader.current(experiment_cache(folder)) as reader:
        require_same_list(reader.generation, unlabeled)
        signals = {name: percentile(values) for name, values in _signals(reader, labeled).items()}
        ids = reader.column("image_id")
    by_id = {image.id: image for image in unlabeled.images}
    score_I = np.mean(list(signals.values()), axis=0)
    best = [place for place in np.lexsort((ids, -score_I)).tolist() if int(ids[place]) in by_id]
    best = best[: max(SHORTLIST, 2 * count)]
    described = _described([by_id[int(ids[place])] for place in best], note)
    known = _described(labeled.images, note)
    places = [place for place, found in zip(best, described, strict=True) if found is not None]
    if not places:
        raise UserError(
            f"None of the unlabeled images in {unlabeled.source} can be read.\n"
            "Expected their files where the training found them."
        )
    chosen = spread(
        score_I[places],
        np.array([found for found in described if found is not None]),
        np.array([found for found in known if found is not None]),
        count,
    )
    return [
        Suggestion(
            image=by_id[int(ids[place])],
            reasons={name: float(values[place]) for name, values in signals.items()},
        )
        for place in (places[index] for index in chosen)
    ]


def _signals(reader: CacheReader, labeled: CocoData) -> dict[str, Values]:
    """What speaks for a label, (I,) each, in the order of the reader's column `image_id`.

    uncertainty: 1 - class confidence; disagreement: 1 - IoU of the teacher's mask and SAM's; rare classes:
    1 / (1 + labeled objects of the class); each the mean over the image's instances. change: the fraction of
    labels that differ from those of the generation before; only where that still exists.
    """
    per_class = labeled.class_counts(labeled.images)
    rarity = np.array([1 / (1 + per_class.get(name, 0)) for name in reader.generation.spec.classes])
    values: dict[str, NDArray[Any]] = {
        "uncertainty": 1 - reader.column("score"),
        "disagreement": 1 - np.nan_to_num(reader.column("raw_iou"), nan=1.0),
        "rare classes": rarity[reader.column("label")],
    }
    signals = {name: reader.mean_per_image(column) for name, column in values.items()}
    if earlier := _generation_before(reader.generation):
        signals["change"] = _changes(reader, earlier)
    return signals


def _generation_before(current: Generation) -> Generation | None:
    """The newest published generation before this one, if it has the same classes."""
    found = [it for it in generations(current.root) if it.number < current.number and it.published()]
    return found[-1] if found and found[-1].spec.classes == current.spec.classes else None


def _changes(reader: CacheReader, earlier: Generation) -> Values:
    """(I,) NaN for images that the earlier generation lacks, or has under a different name."""
    ids, names = reader.column("image_id").tolist(), reader.generation.file_names
    found = np.full(len(ids), np.nan)
    with CacheReader(earlier) as before:
        for place, id_ in enumerate(track(ids, len(ids), "Comparing generations")):
            if id_ in before and names.get(id_) == earlier.file_names.get(id_):
                change = compare_image(id_, before.read(id_).instances, reader.read(id_).instances)
                found[place] = changed_fraction(change)
    return found


def _described(images: Sequence[CocoImage], note: Callable[[str], None]) -> list[Values | None]:
    """The colors (Lab) of each image's thumbnail, as one vector; None where an image is unreadable."""
    vectors: list[Values | None] = []
    for image in track(images, len(images), "Reading images"):
        try:
            pixels, _ = read_rgb(image.path)
        except ImageError as error:
            note(f"left out: {error}")
            vectors.append(None)
            continue
        small = cv2.resize(pixels, (_THUMBNAIL_PX, _THUMBNAIL_PX), interpolation=cv2.INTER_AREA)
        vectors.append(cv2.cvtColor(small, cv2.COLOR_RGB2LAB).astype(np.float64).ravel())
    return vectors


def write_suggestions(folder: Path, suggestions: Sequence[Suggestion]) -> tuple[Path, Path]:
    """Write the list of file names, and a contact sheet with the pseudo-labels; returns both paths."""
    with CacheReader.current(experiment_cache(folder)) as reader:
        title = f"# images to label, the most useful first, by {reader.generation.name}"
        names = [suggestion.image.file_name for suggestion in suggestions]
        tiles = [_tile(reader, place, it) for place, it in enumerate(suggestions, start=1)]
    rows = [tiles[start : start + _COLUMNS] for start in range(0, len(tiles), _COLUMNS)]
    with atomic_path(folder / SUGGESTED_SHEET) as temporary:
        sheet(rows, [title.removeprefix("# "), *[""] * (_COLUMNS - 1)]).save(temporary, "PNG")
    write_text(folder / SUGGESTED, "\n".join([title, *names]) + "\n")
    return folder / SUGGESTED, folder / SUGGESTED_SHEET


def _tile(reader: CacheReader, place: int, suggestion: Suggestion) -> Image.Image:
    """A photo with its pseudo-labels, above its name and the reasons."""
    labels = reader.read(suggestion.image.id)
    found, classes = labels.instances, reader.generation.spec.classes
    texts = [f"{classes[label]} {score:.2f}" for label, score in zip(found.labels, found.scores, strict=True)]
    masks = found.masks.each((0, 0, labels.height, labels.width))
    photo = paint(fitted(read_rgb(suggestion.image.path)[0]), masks, texts, found.labels.tolist())
    tile = Image.new("RGB", (photo.width, photo.height + _CAPTION_PX), "white")
    tile.paste(photo)
    pen, font = ImageDraw.Draw(tile), ImageFont.load_default(12)
    reasons = ", ".join(f"{name} {100 * rank:.0f}" for name, rank in suggestion.reasons.items())
    pen.text((2, photo.height + 2), f"{place}  {suggestion.image.file_name}", "black", font)
    pen.text((2, photo.height + 20), reasons, "dimgray", font)
    return tile
