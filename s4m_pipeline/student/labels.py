"""The labels of the unlabeled images that a student starts with: found, and checked against its data."""

from dataclasses import dataclass
from pathlib import Path

from s4m_cache.errors import CacheError
from s4m_cache.fingerprint import Fingerprint, explain_list
from s4m_cache.generation import Generation
from s4m_cache.generations import current, current_number, generations
from s4m_pipeline.config.experiment import Options
from s4m_pipeline.config.groups import DataOptions
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.data.coco import CocoData
from s4m_pipeline.data.unlabeled import UnlabeledImages, unlabeled_of
from s4m_pipeline.refine.inputs import load_with_truth


@dataclass(frozen=True)
class Labels:
    """A cache of pseudo-labels, and the generation in it that a training starts or resumes with."""

    root: Path
    generation: Generation
    unlabeled: UnlabeledImages

    @property
    def fingerprint(self) -> Fingerprint:
        """What the labels were made of."""
        return self.generation.spec.fingerprint


@dataclass(frozen=True)
class TrueLabels:
    """Annotations of the unlabeled images, in place of pseudo-labels."""

    annotations: Path
    """COCO JSON, perhaps of other images as well."""
    images_root: Path
    unlabeled: UnlabeledImages

    @property
    def fingerprint(self) -> None:
        """Nothing made them."""


def labels_of_source(
    options: Options, root: Path, number: int | None, train: CocoData
) -> Labels | TrueLabels | None:
    """What `student.source` says; None: the labeled images take the place of unlabeled ones.

    Args:
        root: the cache.
        number: the generation that an interrupted training used last; None: the published one.

    Raises:
        UserError: if there are no annotations for `truth`, and as `load_labels`.
        CacheError: as `load_labels`.
    """
    data, source = options.data, options.require_student().source
    if source == "cache":
        return load_labels(data, root, number, train)
    if source == "labeled":
        return None
    unlabeled, truth = load_with_truth(data, options.refine.ground_truth, train)
    if truth is None:
        raise UserError(
            "student.source is 'truth', but there are no annotations of the unlabeled images.\n"
            "Set refine.ground_truth to a COCO JSON with these images."
        )
    folder = unlabeled.source if unlabeled.source.is_dir() else unlabeled.images_root
    return TrueLabels(truth.json_path, folder, unlabeled)


def load_labels(data: DataOptions, root: Path, number: int | None, train: CocoData) -> Labels:
    """The labels of a config's unlabeled images.

    Args:
        root: the cache.
        number: the generation that an interrupted training used last; None: the published one.

    Raises:
        UserError: if the config has no unlabeled images, or the labels are of other classes or images.
        CacheError: if there are none, or some are missing, with the commands to run.
    """
    unlabeled = unlabeled_of(data)
    generation = _published(root) if number is None else Generation(root, number)
    spec = generation.spec
    differences = [
        *explain_list("classes", spec.classes, train.class_names),
        *explain_list("image ids", generation.image_ids.tolist(), [image.id for image in unlabeled.images]),
    ]
    if spec.fingerprint.get("image names", unlabeled.digest) != unlabeled.digest:
        differences.append(f"image names: not those in {unlabeled.source}")
    names = {image.id: image.file_name for image in unlabeled.images}
    if not differences and generation.file_names not in ({}, names):
        other = next(id_ for id_, name in names.items() if generation.file_names[id_] != name)
        differences.append(
            f"image names: {other} is {generation.file_names[other]} there, {names[other]} in "
            f"{unlabeled.source}"
        )
    if differences:
        raise UserError(
            f"The labels in {generation.path} do not belong to this data set:\n  "
            + "\n  ".join(differences)
            + f"\nMake new ones: s4m refine CONFIG --generation {_next_number(root)}; or, if they are your "
            f"own: s4m cache import {root} JSON --unlabeled {unlabeled.source}"
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
