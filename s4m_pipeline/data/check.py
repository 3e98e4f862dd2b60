"""All problems of a data set in one report: its JSON, its image files, and images shared with validation."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

from s4m_cache.limits import MAX_PIXELS
from s4m_pipeline.core.progress import track
from s4m_pipeline.data.coco import CocoData
from s4m_pipeline.data.coco_entries import CocoImage
from s4m_pipeline.data.findings import Findings, Problem
from s4m_pipeline.data.images import ImageError, read_rgb
from s4m_pipeline.data.labeled import first_copies, shared_names
from s4m_pipeline.data.root import missing_name


@dataclass(frozen=True)
class Summary:
    """Counts over the entries of a data set that have no errors."""

    images: int
    annotations: int
    instances: int
    """Annotations used for training."""
    instances_per_image: dict[str, float]
    """`min`, `median`, `mean` and `max` over all images."""
    instances_per_class: dict[str, int]


def summarize(data: CocoData) -> Summary:
    """Count images, annotations and instances; those with errors are not counted."""
    per_image = [len(data.instances(image.id)) for image in data.images] or [0]
    return Summary(
        images=len(data.images),
        annotations=sum(map(len, data.annotations.values())),
        instances=len(data.usable),
        instances_per_image={
            "min": min(per_image),
            "median": median(per_image),
            "mean": round(mean(per_image), 2),
            "max": max(per_image),
        },
        instances_per_class=data.class_counts(data.images),
    )


def check_images(images: Sequence[CocoImage], max_pixels: int = MAX_PIXELS) -> Findings:
    """Decode every image of at most `max_pixels`, in threads; compare it with the JSON and the others."""
    findings = Findings()
    decoded = _in_threads(lambda image: _image_problems(image, max_pixels), images)
    for found in track(decoded, len(images), "Checking images"):
        for problem, name in found:
            findings.add(problem, name)
    for name, first in first_copies(images).items():
        if name != first:
            findings.add(Problem.FILE_COPIED, f"{name} (= {first})")
    return findings


def _in_threads(
    function: Callable[[CocoImage], list[tuple[Problem, str]]], images: Sequence[CocoImage]
) -> Iterator[list[tuple[Problem, str]]]:
    """`map` on all cores (decoders release the interpreter lock); an interrupt cancels the waiting work."""
    pool = ThreadPoolExecutor(max_workers=os.cpu_count())
    try:
        yield from pool.map(function, images)
    finally:
        pool.shutdown(cancel_futures=True)


def _image_problems(image: CocoImage, max_pixels: int) -> list[tuple[Problem, str]]:
    try:
        pixels, header = read_rgb(image.path, max_pixels)
    except ImageError as error:
        if error.problem is Problem.FILE_MISSING:
            return [(error.problem, missing_name(image.path, image.file_name))]
        empty = error.problem is Problem.FILE_EMPTY
        return [(error.problem, image.file_name if empty else f"{image.file_name} ({error.detail})")]
    given, actual = (image.width, image.height), (header.width, header.height)
    if given != actual:
        unrotated = header.swapped and given == actual[::-1]
        problem = Problem.SIZE_UNROTATED if unrotated else Problem.SIZE_DIFFERS
        sizes = f"JSON: {given[0]} x {given[1]}, file when upright: {actual[0]} x {actual[1]}"
        return [(problem, f"{image.file_name} ({sizes})")]
    problems = {Problem.EXIF_ROTATED: header.rotated, Problem.IMAGE_DARK: pixels.max() < 64}
    return [(problem, image.file_name) for problem, found in problems.items() if found]


def check_validation(data: CocoData, validation: CocoData) -> Findings:
    """Compare images and categories of a training set with those of a validation set."""
    findings = Findings()
    for name in shared_names(data.images, validation.images):
        findings.add(Problem.VALIDATION_SHARED, f"{name} in {validation.json_path.name}")
    own = {(category.id, category.name) for category in data.categories}
    other = {(category.id, category.name) for category in validation.categories}
    for category_id, name in sorted(own - other):
        findings.add(Problem.CATEGORIES_DIFFER, f"{category_id} {name} only in {data.json_path.name}")
    for category_id, name in sorted(other - own):
        findings.add(Problem.CATEGORIES_DIFFER, f"{category_id} {name} only in {validation.json_path.name}")
    return findings


def report_json(data: CocoData, findings: Findings) -> dict[str, Any]:
    """The report as JSON: `problems` (see `Findings.as_json`), counts, and the summary."""
    summary = summarize(data)
    return {
        "json": str(data.json_path),
        "images_root": str(data.images_root),
        "sha256": data.sha256,
        "errors": findings.count("error"),
        "warnings": findings.count("warning"),
        "problems": findings.as_json(),
        "images": summary.images,
        "annotations": summary.annotations,
        "instances": summary.instances,
        "instances_per_image": summary.instances_per_image,
        "instances_per_class": summary.instances_per_class,
    }
