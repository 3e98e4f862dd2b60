"""The pseudo-labels that a student begins with: found, and checked against its data."""

from dataclasses import dataclass
from pathlib import Path

from cache.errors import CacheError
from cache.fingerprint import Fingerprint, explain_list
from cache.generation import Generation
from cache.generations import current, current_number, generations
from s4m_pipeline.data.coco import CocoData
from s4m_pipeline.data.unlabeled import UnlabeledImages, load_unlabeled
from s4m_pipeline.errors import UserError
from s4m_pipeline.options.groups import DataOptions


@dataclass(frozen=True)
class Labels:
    """A cache of pseudo-labels, and the generation in it that a training begins or goes on with."""

    root: Path
    generation: Generation
    unlabeled: UnlabeledImages

    @property
    def fingerprint(self) -> Fingerprint:
        """What the labels were made of."""
        return self.generation.spec.fingerprint


def load_labels(data: DataOptions, root: Path, number: int | None, train: CocoData) -> Labels:
    """The labels of the unlabelled images that a config names; see `find_labels`.

    Raises:
        UserError: if it names none, and as `find_labels`.
        CacheError: as `find_labels`.
    """
    if data.unlabeled is None:
        raise UserError(
            "The config has no data.unlabeled, the images that the labels in the cache belong to."
        )
    unlabeled = load_unlabeled(data.path(data.unlabeled), data.path(data.train_images))
    return find_labels(root, number, train, unlabeled)


def find_labels(root: Path, number: int | None, train: CocoData, unlabeled: UnlabeledImages) -> Labels:
    """The labels to learn from.

    Args:
        root: the cache.
        number: generation that an interrupted training used last; None: the published one.

    Raises:
        UserError: if their classes or images are not those of the data set.
        CacheError: if there are none, or some are missing, with the commands that make them.
    """
    generation = _published(root) if number is None else Generation(root, number)
    spec = generation.spec
    differences = [
        *explain_list("classes", spec.classes, train.class_names),
        *explain_list("image ids", generation.image_ids.tolist(), [image.id for image in unlabeled.images]),
    ]
    if spec.fingerprint.get("image names", unlabeled.digest) != unlabeled.digest:
        differences.append(f"image names: not those that {unlabeled.source} lists now")
    if differences:
        raise UserError(
            f"The labels in {generation.path} do not belong to this data set:\n  "
            + "\n  ".join(differences)
            + f"\nMake new ones: s4m refine CONFIG --generation {_next_number(root)}"
        )
    generation.refuse_incomplete()  # a repair may have removed images since
    return Labels(root, generation, unlabeled)


def _published(root: Path) -> Generation:
    known = generations(root)
    if current_number(root) == 0 and known:
        known[-1].refuse_incomplete()
    try:
        return current(root)
    except CacheError as error:
        raise CacheError(f"There are no pseudo-labels to learn from: {error}") from error


def _next_number(root: Path) -> int:
    return generations(root)[-1].number + 1
