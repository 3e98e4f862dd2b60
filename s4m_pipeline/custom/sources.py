"""The data sets of a new experiment: checked whole, free of leaks, and split where there is no validation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cache.atomic import write_text
from s4m_pipeline.data.check import check_images, check_validation
from s4m_pipeline.data.coco import CocoData, CocoImage, parse_coco
from s4m_pipeline.data.findings import Findings, Problem, first_names
from s4m_pipeline.data.folder import folder_images
from s4m_pipeline.data.leak import shared_images
from s4m_pipeline.data.root import images_beside
from s4m_pipeline.data.split_files import coco_json
from s4m_pipeline.data.splits import choose_percent
from s4m_pipeline.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What a person has: folders and COCO JSON files."""

    images: Path
    labels: Path
    unlabeled: Path
    """A folder of images, or a COCO JSON whose file names are relative to `images`."""
    val: Path | None
    val_images: Path | None
    val_percent: float
    """Share of the labelled images that become validation images where `val` is None."""
    seed: int
    """Which ones."""
    test: Path | None
    test_images: Path | None


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Sound data sets, and the JSON files that are still to be written."""

    labeled: CocoData
    val: CocoData
    test: CocoData | None
    unlabeled: Path
    """The folder or JSON file that the config is to name."""
    unlabeled_images: tuple[CocoImage, ...]
    left_out: int
    """Images of the unlabelled folder that are labelled, validation or test images."""
    new_files: dict[Path, str]

    @property
    def sizes_px(self) -> list[tuple[int, int]]:
        """Width and height of every image that is trained on."""
        return [(image.width, image.height) for image in (*self.labeled.images, *self.unlabeled_images)]

    @property
    def most_objects(self) -> int:
        """Objects of the labelled image that has most."""
        return max(len(self.labeled.instances(image.id)) for image in self.labeled.images)

    @property
    def small_object_px(self) -> float:
        """The area that a tenth of the labelled objects stays below, in pixels of their files."""
        found = [found for image in self.labeled.images for found in self.labeled.instances(image.id)]
        return float(np.percentile([annotation["area"] for annotation in found], 10))


def prepare(sources: Sources, out: Path, progress: Callable[[str], None]) -> Prepared:
    """Check all data sets, part off validation images if none are given, list the unlabelled images.

    Nothing is written.

    Args:
        out: folder of the new files.
        progress: called with a line before each lengthy step.

    Raises:
        UserError: one message with the errors of all data sets; or leaks, or nothing left on a side.
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
    progress(f"listing the unlabelled images of {sources.unlabeled}")
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
            findings.raise_errors(data.json_path, advice)
        except UserError as error:
            faults.append(str(error))
    if faults:
        raise UserError("\n".join(faults))
    if len(others) == 2:
        _refuse_shared("--test", others[1][0].images, others[0][0].images)


def _split_off(data: CocoData, percent: float, seed: int, out: Path) -> tuple[CocoData, CocoData]:
    """Labelled and validation part of one annotated set, both as files to be written to `out`."""
    names = [image.file_name for image in data.images]
    chosen = set(choose_percent(names, percent, seed, "--val-percent"))
    parts = []
    for name, wanted in (("labeled", False), ("val", True)):
        images = tuple(image for image in data.images if (image.file_name in chosen) == wanted)
        kept = {image.id: data.annotations[image.id] for image in images if image.id in data.annotations}
        part = replace(data, json_path=out / f"{name}.json", images=images, annotations=kept)
        if not any(part.class_counts(images).values()):
            raise UserError(
                f"{data.json_path}: with {percent:g} % of its {len(data.images)} images for validation the "
                f"{name} part has no instance. Label more images, give --val, or another --val-percent."
            )
        parts.append(part)
    return parts[0], parts[1]


def _list_unlabeled(
    sources: Sources, labels: CocoData, known: Sequence[CocoImage]
) -> tuple[Path | None, list[CocoImage], int]:
    """The source that a config can name as it is (None: a list must be written), its images, and how many of
    the folder's are not among them because they are known."""
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
    images = [
        replace(image, file_name=image.path.relative_to(labels.images_root).as_posix())
        for image in found
        if image.path not in shared
    ]
    if not images:
        raise UserError(
            f"--unlabeled {source}: all {len(found)} images are labelled, validation or test images already. "
            "Name a folder with others, or label fewer with `s4m data split`."
        )
    return None, images, len(shared)


def _refuse_shared(option: str, images: Sequence[CocoImage], known: Sequence[CocoImage]) -> None:
    names = [image.file_name for image, _ in shared_images(images, known)]
    if names:
        raise UserError(
            f"{option}: {len(names)} images are in another part of the experiment, too: "
            f"{first_names(names)}. Take them out of one."
        )


def write_files(contents: Mapping[Path, str]) -> None:
    """Write new files in this order, with the folders that they are in.

    Raises:
        UserError: if one cannot be written.
    """
    for path, content in contents.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, content)
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror}). Name another --out.") from error
