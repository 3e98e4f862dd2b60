"""A reader of many images: time to open, memory that grows with the images, and random reads.

    s4m bench cache-scale

Parts share the files of one part of images of COCO size (7 instances), except the image ids. Each reader has
a process of its own. Times are CPU time of that process, with everything in the page cache.
"""

import ctypes
import os
import shutil
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np
import zarr
from rich.table import Table

from s4m_cache import sealed
from s4m_cache.generation import Generation, GenerationSpec, create
from s4m_cache.parts import MANIFEST, write_part
from s4m_cache.reader import CacheReader
from s4m_cache.records import ImageLabels
from s4m_pipeline.apps.bench.cache import SETTINGS, draw_images, in_new_process, resident_mb
from s4m_pipeline.apps.bench.timing import show

NUM_IMAGES = (100_000, 1_000_000)
PART_IMAGES = 256
"""As `cache.part_images` by default."""

READ_S = 5.0


def main() -> None:
    """Measure and print a table."""
    table = Table(title=f"Readers of large generations ({os.cpu_count()} cores)", title_justify="left")
    for column in ("images", "parts", "files", "open, s", "bytes per image", "reads/s", "MB after reads"):
        table.add_column(column, justify="right")
    with tempfile.TemporaryDirectory() as folder:
        for number, num_images in enumerate(NUM_IMAGES, start=1):
            generation = write_generation(Path(folder), number, num_images)
            table.add_row(f"{num_images:,}", *in_new_process(measure, generation))
            shutil.rmtree(generation.path)
    show(table)


def write_generation(root: Path, number: int, num_images: int) -> Generation:
    """A complete generation of this many images, in hard links to the files of its first part."""
    spec = GenerationSpec(
        image_ids=np.arange(num_images),
        classes=[f"class {i}" for i in range(8)],
        category_ids=range(1, 9),
        num_shards=1,
        fingerprint={},
    )
    generation = Generation(root, number)
    create(generation, spec, {})
    drawn = [image.instances for image in draw_images(SETTINGS[1])]
    images = [
        ImageLabels(image_id=i, height=480, width=640, instances=drawn[i % len(drawn)])
        for i in range(PART_IMAGES)
    ]
    first = generation.next_part_path("part-0001-")
    write_part(first, images)
    for part in range(1, num_images // PART_IMAGES):
        _copy_part(first, first.with_name(f"part-0001-{part + 1:06d}"), part * PART_IMAGES)
    rest = num_images % PART_IMAGES
    if rest:
        ids = range(num_images - rest, num_images)
        last = [
            ImageLabels(image_id=i, height=480, width=640, instances=image.instances)
            for i, image in zip(ids, images, strict=False)
        ]
        write_part(generation.next_part_path("part-0001-"), last)
    return generation


def _copy_part(part: Path, copy: Path, first_id: int) -> None:
    shutil.copytree(part, copy, copy_function=os.link)
    chunk, manifest = copy / "image_id/c.0", sealed.read(copy / MANIFEST)
    (copy / MANIFEST).unlink()
    chunk.unlink()
    ids = np.arange(first_id, first_id + PART_IMAGES)
    zarr.open_array(copy / "image_id", mode="r+")[...] = ids
    data = chunk.read_bytes()
    manifest["files"]["image_id/c.0"] = [len(data), zlib.crc32(data)]
    (copy / MANIFEST).write_bytes(sealed.dump(manifest | {"image_id": ids.tolist()}))


def measure(generation: Generation) -> tuple[str, ...]:
    """Columns of the table, after the number of images."""
    paths = generation.part_paths()
    with CacheReader(generation) as first:  # imports, and what zarr keeps for itself
        first.read(0)
    before, start = _held_mb(), time.process_time()
    reader = CacheReader(Generation(generation.root, generation.number))
    opened, held = time.process_time() - start, _held_mb() - before
    order = np.random.default_rng(0).permutation(reader.image_ids)
    count, start = 0, time.process_time()
    while time.process_time() < start + READ_S:
        reader.read(int(order[count % len(order)])).dense((100, 100, 420, 420))
        count += 1
    del order
    files = len(paths) * sum(path.is_file() for path in paths[0].rglob("*"))
    return (
        f"{len(paths):,}",
        f"{files:,}",
        f"{opened:.2f}",
        f"{1e6 * held / len(reader):.1f}",
        f"{count / READ_S:.0f}",
        f"{_held_mb() - before:.0f}",
    )


def _held_mb() -> float:
    """Memory of this process without what it has freed, which glibc keeps for later."""
    ctypes.CDLL(None).malloc_trim(0)
    return resident_mb()
