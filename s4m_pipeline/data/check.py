"""Every problem of a data set in one report: its JSON, its image files, and images shared with validation."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

from cache.limits import MAX_PIXELS
from s4m_pipeline.data.coco import CocoData, CocoImage
from s4m_pipeline.data.findings import Findings, Problem
from s4m_pipeline.data.images import ImageError, read_rgb
from s4m_pipeline.data.leak import shared_names

Progress = Callable[[], None]
"""Called once for every image looked at."""


@dataclass(frozen=True)
class Summary:
    """Counts of what is sound and usable in a data set."""

    images: int
    annotations: int
    instances: int
    """Annotations that are learnt from."""
    instances_per_image: dict[str, float]
    """`min`, `median`, `mean` and `max` over all images."""
    instances_per_class: dict[str, int]


def summarise(data: CocoData) -> Summary:
    """Count a data set; images and annotations with errors are not in it."""
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


def check_images(
    images: Sequence[CocoImage], max_pixels: int = MAX_PIXELS, progress: Progress = lambda: None
) -> Findings:
    """Decode every image, in threads, and compare it with what the JSON says.

    Nothing is modified. An image over `max_pixels` is not decoded.
    """
    findings = Findings()
    for found in _in_threads(lambda image: _image_problems(image, max_pixels), images):
        progress()
        for problem, name in found:
            findings.add(problem, name)
    return findings


def _in_threads(
    function: Callable[[CocoImage], list[tuple[Problem, str]]], images: Sequence[CocoImage]
) -> Iterator[list[tuple[Problem, str]]]:
    """`map` on all cores; decoders release the interpreter lock. Waiting work is dropped on an interrupt."""
    pool = ThreadPoolExecutor(max_workers=os.cpu_count())
    try:
        yield from pool.map(function, images)
    finally:
        pool.shutdown(cancel_futures=True)


def _image_problems(image: CocoImage, max_pixels: int) -> list[tuple[Problem, str]]:
    try:
        pixels, header = read_rgb(image.path, max_pixels)
    except ImageError as error:
        plain = error.problem in (Problem.FILE_MISSING, Problem.FILE_EMPTY)
        return [(error.problem, image.file_name if plain else f"{image.file_name} ({error.detail})")]
    given, actual = (image.width, image.height), (header.width, header.height)
    if given != actual:
        unrotated = header.swapped and given == actual[::-1]
        problem = Problem.SIZE_UNROTATED if unrotated else Problem.SIZE_DIFFERS
        sizes = f"JSON: {given[0]} x {given[1]}, upright file: {actual[0]} x {actual[1]}"
        return [(problem, f"{image.file_name} ({sizes})")]
    problems = {Problem.EXIF_ROTATED: header.rotated, Problem.IMAGE_DARK: pixels.max() < 64}
    return [(problem, image.file_name) for problem, found in problems.items() if found]


def check_validation(data: CocoData, validation: CocoData) -> Findings:
    """Images and categories of a training set against one of its validation sets."""
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
    """The report for machines: `problems` as `Findings.as_json` gives them, counts, and the summary."""
    summary = summarise(data)
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
