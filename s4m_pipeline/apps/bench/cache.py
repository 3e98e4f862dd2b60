"""The cache against COCO RLE in one JSON file, in turn in one run: bytes, decoding, opening, memory, reading.

    s4m bench cache

Times are CPU time of the process with all its threads, so that a busy machine does not change them; images a
second are counted by the clock. Masks are drawn: star-shaped outlines with the ragged edges of a network's
masks, of widely spread sizes.
"""

import contextlib
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from rich.table import Table

from s4m_cache.coco import export_coco
from s4m_cache.generation import Generation, GenerationSpec
from s4m_cache.generations import begin, publish
from s4m_cache.reader import CacheReader
from s4m_cache.records import ImageLabels, Instances
from s4m_cache.sharding import ShardSpec
from s4m_cache.writer import ShardWriter
from s4m_pipeline.apps.bench.timing import show, time_in_turn

NUM_LARGE = 20_000
"""Images of the large cache: those of COCO size, over and over. COCO's train2017 has six times as many."""

NUM_WORKERS = 4
WORKER_S = 4.0


@dataclass(frozen=True)
class Setting:
    """Sizes like a data set's."""

    name: str
    height: int
    width: int
    num_images: int
    num_instances: int
    side: float
    window: tuple[int, int, int, int]


SETTINGS = (
    Setting("Cityscapes size", 1024, 2048, 8, 21, 90, (256, 512, 768, 1536)),
    Setting("COCO size", 480, 640, 60, 7, 70, (100, 100, 420, 420)),
)


def main() -> None:
    """Measure and print a table."""
    table = Table(title=f"Pseudo-label cache against COCO RLE ({os.cpu_count()} cores)", title_justify="left")
    for column in ("", "cache", "COCO RLE", "ratio"):
        table.add_column(column, justify="left" if not column else "right")
    with tempfile.TemporaryDirectory() as folder:
        for setting in SETTINGS:
            labels = draw_images(setting)
            root = Path(folder, setting.name.split()[0])
            small = write_cache(root, labels, len(labels))
            measure_masks(table, setting, small)
        large = write_cache(Path(folder, "large"), labels, NUM_LARGE)
        measure_opening(table, large, write_json(Path(folder, "large.json"), small))
    show(table)


def draw_images(setting: Setting) -> list[ImageLabels]:
    """Images full of drawn masks, the same at every call."""
    rng = np.random.default_rng(0)
    images = []
    for image_id in range(setting.num_images):
        masks = np.zeros((setting.num_instances, setting.height, setting.width), bool)
        for mask in masks:
            side = np.exp(rng.normal(np.log(setting.side), 0.9))
            aspect = np.exp(rng.normal(0, 0.5))
            h = int(np.clip(side * aspect, 6, setting.height - 2))
            w = int(np.clip(side / aspect, 6, setting.width - 2))
            y, x = rng.integers(0, setting.height - h), rng.integers(0, setting.width - w)
            mask[y : y + h, x : x + w] = draw_mask(rng, h, w)
        instances = Instances.create(
            masks=masks,
            labels=rng.integers(0, 8, len(masks)),
            scores=rng.uniform(0.7, 1, len(masks)),
        )
        images.append(
            ImageLabels(image_id=image_id, height=setting.height, width=setting.width, instances=instances)
        )
    return images


def draw_mask(rng: np.random.Generator, height: int, width: int) -> NDArray[np.bool_]:
    """A star-shaped outline of 23 harmonics, its edge roughened by smooth noise."""
    y, x = np.mgrid[0:height, 0:width]
    y, x = (y - height / 2) / height, (x - width / 2) / width
    order = np.arange(1, 24)
    amplitude, phase = rng.normal(size=23) / order**1.2, rng.uniform(0, 2 * np.pi, 23)
    angles = np.linspace(-np.pi, np.pi, 1024)
    outline = 0.38 + 0.09 * (amplitude[:, None] * np.cos(order[:, None] * angles + phase[:, None])).sum(0)
    noise = 0.02 * cv2.GaussianBlur(rng.normal(size=(height, width)).astype(np.float32), (0, 0), 2)
    return np.hypot(y, x) + noise < np.interp(np.arctan2(y, x), angles, outline)


def write_cache(root: Path, labels: list[ImageLabels], num_images: int) -> Generation:
    """A published generation of these labels, repeated up to `num_images`."""
    spec = GenerationSpec(
        image_ids=range(num_images),
        classes=[f"class {i}" for i in range(8)],
        category_ids=range(1, 9),
        num_shards=1,
        fingerprint={},
    )
    generation = begin(root, spec)
    with ShardWriter(generation, ShardSpec(1, 1), max_images=1024) as writer:
        for image_id in range(num_images):
            image = labels[image_id % len(labels)]
            writer.append(
                ImageLabels(
                    image_id=image_id, height=image.height, width=image.width, instances=image.instances
                )
            )
    publish(generation)
    return generation


def write_json(path: Path, small: Generation) -> Path:
    """The same annotations as the large cache's, in one COCO file."""
    with CacheReader(small) as reader:
        export_coco(reader, path)
    body, num_small = json.loads(path.read_bytes()), small.image_ids.size
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id in range(NUM_LARGE):
        images.append(body["images"][image_id % num_small] | {"id": image_id})
    for repeat in range(-(-NUM_LARGE // num_small)):
        for annotation in body["annotations"]:
            image_id = annotation["image_id"] + repeat * num_small
            if image_id < NUM_LARGE:
                annotations.append(annotation | {"id": len(annotations) + 1, "image_id": image_id})
    path.write_text(json.dumps(body | {"images": images, "annotations": annotations}))
    return path


def measure_masks(table: Table, setting: Setting, generation: Generation) -> None:
    """Bytes and decoding of one data set's sizes."""
    reader = CacheReader(generation)
    images = reader.read_many(range(setting.num_images))
    rles = [
        coco_mask.encode(np.asfortranarray(image.dense().transpose(1, 2, 0), np.uint8)) for image in images
    ]
    y0, x0, y1, x1 = setting.window
    bits = sum((path / "bits/c.0").stat().st_size for path in generation.part_paths()) / len(images)
    counts = sum(len(rle["counts"]) for image in rles for rle in image) / len(images)
    table.add_section()
    table.add_row(f"[bold]{setting.name}", "", "", "")
    add_row(table, "bytes of masks per image", bits, counts, "{:,.0f}")
    full, full_rle = in_turn(
        lambda: for_each(images, ImageLabels.dense), lambda: for_each(rles, coco_mask.decode)
    )
    add_row(table, "decode all masks of an image, ms", *per_image_ms(full, full_rle, images))
    part, part_rle = in_turn(
        lambda: for_each(images, lambda image: image.dense(setting.window)),
        lambda: for_each(rles, lambda rle: coco_mask.decode(rle)[y0:y1, x0:x1]),
    )
    name = f"decode a {y1 - y0} x {x1 - x0} window, ms"
    add_row(table, name, *per_image_ms(part, part_rle, images))
    order = np.random.default_rng(0).permutation(setting.num_images).tolist()
    read, _ = in_turn(lambda: for_each(order, lambda i: reader.read(i).dense()), lambda: None)
    table.add_row("read from disk (warm) and decode all, ms", f"{1e3 * read / len(images):.2f}", "", "")
    read, _ = in_turn(lambda: for_each(order, lambda i: reader.read(i).dense(setting.window)), lambda: None)
    table.add_row(
        "read from disk (warm) and decode the window, ms", f"{1e3 * read / len(images):.2f}", "", ""
    )
    preloaded = CacheReader(generation, preload_bytes=1 << 30)
    read, _ = in_turn(lambda: for_each(order, lambda i: preloaded.read(i).dense()), lambda: None)
    table.add_row("read, preloaded, and decode all, ms", f"{1e3 * read / len(images):.2f}", "", "")
    table.add_row(f"images/s, {NUM_WORKERS} workers, wall clock", f"{reads_per_second(reader):,.0f}", "", "")


def measure_opening(table: Table, generation: Generation, json_path: Path) -> None:
    """Time and memory to open a large generation, each in a process of its own."""
    ours = [in_new_process(open_cache, generation) for _ in range(3)]
    theirs = [in_new_process(open_json, json_path) for _ in range(3)]
    times, whole, memory = (statistics.median(column) for column in zip(*ours, strict=True))
    json_time, json_memory = (statistics.median(column) for column in zip(*theirs, strict=True))
    table.add_section()
    table.add_row(
        f"[bold]{NUM_LARGE:,} images, {NUM_LARGE * SETTINGS[1].num_instances:,} instances", "", "", ""
    )
    add_row(table, "open, s", times, json_time, "{:.3f}")
    add_row(table, "open and read the whole index, s", whole, json_time, "{:.3f}")
    add_row(table, "memory of the whole index, MB", memory, json_memory, "{:.1f}")


def in_turn(ours: Callable[[], Any], theirs: Callable[[], Any]) -> tuple[float, float]:
    """Median CPU seconds of both."""
    seconds = time_in_turn({"ours": ours, "theirs": theirs}, torch.device("cpu"))
    return seconds["ours"], seconds["theirs"]


def for_each(items: Iterable[Any], function: Callable[[Any], Any]) -> None:
    """Call the function, keeping no result: a training does not hold all masks at once either."""
    for item in items:
        function(item)


def per_image_ms(ours: float, theirs: float, images: list[ImageLabels]) -> tuple[float, float, str]:
    return 1e3 * ours / len(images), 1e3 * theirs / len(images), "{:.2f}"


def add_row(table: Table, name: str, ours: float, theirs: float, form: str) -> None:
    table.add_row(name, form.format(ours), form.format(theirs), f"{ours / theirs:.3f}")


def reads_per_second(reader: CacheReader) -> float:
    """Images read and decoded in random order by all workers together."""
    context = multiprocessing.get_context("spawn")
    counts = context.SimpleQueue()
    ready = context.Barrier(NUM_WORKERS)
    workers = [
        context.Process(target=_read_for_a_while, args=(reader, seed, ready, counts))
        for seed in range(NUM_WORKERS)
    ]
    for worker in workers:
        worker.start()
    total = sum(counts.get() for _ in workers)
    for worker in workers:
        worker.join()
    return total / WORKER_S


def _read_for_a_while(reader: CacheReader, seed: int, ready: Any, counts: Any) -> None:
    order = np.random.default_rng(seed).permutation(reader.image_ids).tolist()
    reader.read(order[0])
    ready.wait()
    count, end = 0, time.perf_counter() + WORKER_S
    while time.perf_counter() < end:
        reader.read(order[count % len(order)]).dense()
        count += 1
    counts.put(count)


def open_cache(generation: Generation) -> tuple[float, float, float]:
    """Seconds to open, seconds until the whole index is read, and the memory that it takes, MB."""
    before, start = resident_mb(), time.process_time()
    reader = CacheReader.current(generation.root)
    opened = time.process_time() - start
    reader.column("image_id")
    return opened, time.process_time() - start, resident_mb() - before


def open_json(path: Path) -> tuple[float, float]:
    """Seconds to open with pycocotools, and the memory that it takes, MB."""
    before, start = resident_mb(), time.process_time()
    with contextlib.redirect_stdout(None):
        coco = COCO(path)
    taken = time.process_time() - start
    assert coco.anns
    return taken, resident_mb() - before


def in_new_process(function: Callable[..., Any], argument: Any) -> Any:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, (argument,))


def resident_mb() -> float:
    """This process's memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
