"""The data sets of a new experiment: checked, without leaks, and split if there is no validation set."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np

from s4m_cache.atomic import write_text
from s4m_pipeline.apps.init.fitting import Facts
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.data.check import check_images, check_validation
from s4m_pipeline.data.coco import CocoData, parse_coco
from s4m_pipeline.data.coco_entries import CocoImage
from s4m_pipeline.data.findings import Findings, Problem, first_names
from s4m_pipeline.data.folder import folder_images, refuse_outside, unread_files
from s4m_pipeline.data.labeled import first_copies, shared_images
from s4m_pipeline.data.root import images_beside
from s4m_pipeline.data.split_files import coco_json
from s4m_pipeline.data.splits import choose_percent


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The folders and COCO JSON files that the user gives."""

    images: Path
    labels: Path
    unlabeled: Path
    """A folder of images, or a COCO JSON whose file names are relative to `images`."""
    val: Path | None
    val_images: Path | None
    val_percent: float
    """Percentage of the labeled images that become validation images if `val` is None."""
    seed: int
    """Decides which ones."""
    test: Path | None
    test_images: Path | None


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Checked data sets, and the JSON files to write."""

    labeled: CocoData
    val: CocoData
    test: CocoData | None
    unlabeled: Path
    """The folder or JSON file that the config names."""
    unlabeled_images: tuple[CocoImage, ...]
    left_out: int
    """Images of the unlabeled folder that are labeled, validation or test images."""
    new_files: dict[Path, str]

    @property
    def facts(self) -> Facts:
        """What the experiment is sized by: the images that are trained on, and their objects."""
        images = (*self.labeled.images, *self.unlabeled_images)
        objects = [self.labeled.instances(image.id) for image in self.labeled.images]
        areas_px = [found["area"] for of_image in objects for found in of_image]
        return Facts(
            short_px=median(min(image.width, image.height) for image in images),
            long_px=median(max(image.width, image.height) for image in images),
            num_labeled=len(self.labeled.images),
            num_val=len(self.val.images),
            num_unlabeled=len(self.unlabeled_images),
            most_objects=max(map(len, objects)),
            mean_objects=len(areas_px) / len(objects),
            small_object_px=float(np.percentile(areas_px, 10)),
        )


def prepare(sources: Sources, out: Path, progress: Callable[[str], None]) -> Prepared:
    """Check all data sets, split off validation images if none are given, list the unlabeled images.

    Nothing is written.

    Args:
        out: folder of the new files.
        progress: called with a line before each long step.

    Raises:
        UserError: one message with the errors of all data sets; or about leaks, or an empty part.
    """
    labels = parse_coco(sources.labels, sources.images)
    val = _parse(sources.val, sources.val_images)
    test = _parse(sources.test, sources.test_images)
    _refuse_errors(labels, [other for other in (val, test) if other], progress)
    labeled, new_files = labels[0], {}
    if val is None:
        labeled, validation = _split_off(labels[0], sources.val_percent, sources.seed, out)
        new_files = {data.json_path: _whole_json(data) for data in (labeled, validation)}
    else:
        validation = val[0]
    known = [image for data in (labeled, validation, *([test[0]] if test else [])) for image in data.images]
    progress(f"listing the unlabeled images of {sources.unlabeled}")
    if sources.unlabeled.is_dir() and (unread := unread_files(sources.unlabeled)):
        progress(unread)
    unlabeled, images, left_out = _list_unlabeled(sources, labels[0], known)
    if unlabeled is None:
        unlabeled = out / "unlabeled.json"
        new_files[unlabeled] = coco_json(labels[0], images, [])
    return Prepared(
        labeled=labeled,
        val=validation,
        test=test[0] if test else None,
        unlabeled=unlabeled,
        unlabeled_images=tuple(images),
        left_out=left_out,
        new_files=new_files,
    )


def _whole_json(data: CocoData) -> str:
    return coco_json(
        data, data.images, [a for image in data.images for a in data.annotations.get(image.id, [])]
    )


def _parse(json_path: Path | None, images: Path | None) -> tuple[CocoData, Findings] | None:
    return None if json_path is None else parse_coco(json_path, images or images_beside(json_path))


def _refuse_errors(
    labels: tuple[CocoData, Findings],
    others: Sequence[tuple[CocoData, Findings]],
    progress: Callable[[str], None],
) -> None:
    """Decode every image, compare the sets, and raise all errors in one message."""
    faults = []
    for data, findings in (labels, *others):
        progress(f"{data.json_path}: decoding {len(data.images)} images")
        findings.update(check_images(data.images))
        if not data.usable and not findings.names(Problem.INSTANCE_NONE):
            findings.add(Problem.INSTANCE_NONE, "the file has no annotations")
        if data is not labels[0]:
            findings.update(check_validation(labels[0], data))
        try:
            advice = f"`s4m data check {data.json_path} --images {data.images_root}` lists them all."
            findings.raise_errors(data.json_path, data.folder_advice() + advice)
        except UserError as error:
            faults.append(str(error))
    if faults:
        raise UserError("\n".join(faults))
    if len(others) == 2:
        _refuse_shared("--test", others[1][0].images, others[0][0].images)


def _split_off(data: CocoData, percent: float, seed: int, out: Path) -> tuple[CocoData, CocoData]:
    """Labeled and validation part of one annotated set, both as files to be written to `out`."""
    firsts = first_copies(data.images)  # copies stay on one side
    chosen = set(choose_percent(sorted(set(firsts.values())), percent, seed, "--val-percent"))
    parts = []
    for name, wanted in (("labeled", False), ("val", True)):
        images = tuple(image for image in data.images if (firsts[image.file_name] in chosen) == wanted)
        kept = {image.id: data.annotations[image.id] for image in images if image.id in data.annotations}
        part = replace(data, json_path=out / f"{name}.json", images=images, annotations=kept)
        if not any(part.class_counts(images).values()):
            raise UserError(
                f"{data.json_path}: with {percent:g} % of its {len(data.images)} images for validation the "
                f"{name} part has no instance. Label more images, give --val, or a different --val-percent."
            )
        parts.append(part)
    return parts[0], parts[1]


def _list_unlabeled(
    sources: Sources, labels: CocoData, known: Sequence[CocoImage]
) -> tuple[Path | None, list[CocoImage], int]:
    """The source that a config can name (None: a list must be written), its images, and how many images of
    the folder were left out because they are known."""
    source = sources.unlabeled
    if source.is_file():
        data, findings = parse_coco(source, sources.images)
        findings.update(check_images(data.images))
        findings.raise_errors(
            source, "Its file names are relative to --images; or give --unlabeled a folder."
        )
        _refuse_shared("--unlabeled", data.images, known)
        return source, list(data.images), 0
    found = folder_images(source, max(image.id for image in [*labels.images, *known]) + 1)
    shared = {image.path for image, _ in shared_images(found, known)}
    if not shared:
        return source, found, 0
    if not source.resolve().is_relative_to(labels.images_root):
        _refuse_shared("--unlabeled", found, known)
    refuse_outside([image for image in found if image.path not in shared], labels.images_root)
    images = [
        replace(image, file_name=image.path.relative_to(labels.images_root).as_posix())
        for image in found
        if image.path not in shared
    ]
    if not images:
        raise UserError(
            f"--unlabeled {source}: all {len(found)} images are labeled, validation or test images already. "
            "Give a folder with different ones, or label fewer with `s4m data split`."
        )
    return None, images, len(shared)


def _refuse_shared(option: str, images: Sequence[CocoImage], known: Sequence[CocoImage]) -> None:
    names = [image.file_name for image, _ in shared_images(images, known)]
    if names:
        raise UserError(
            f"{option}: {len(names)} images are also in a different part of the experiment: "
            f"{first_names(names)}. Remove them from one of the two."
        )


def write_files(contents: Mapping[Path, str]) -> None:
    """Write new files in this order, and create their folders.

    Raises:
        UserError: if one cannot be written.
    """
    for path, content in contents.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, content)
        except OSError as error:
            raise UserError(
                f"{path}: cannot be written ({error.strerror}). Choose a different --out."
            ) from error
