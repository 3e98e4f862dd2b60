"""Refine and the cache with more and more small images: time should grow with them, and memory not.

    s4m bench growth

Refine is the whole stage, from the list of images to the published generation, with the demo's network of
random weights and the nano SAM 2, on drawn scenes, each of them in many files. The cache writes and reads two
small masks for each image. On a CPU, seconds are processor time. Memory is the most that the process held
during the work (of Linux, which alone can tell).
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.table import Table

from s4m_cache.generation import GenerationSpec
from s4m_cache.generations import begin, publish
from s4m_cache.reader import CacheReader
from s4m_cache.records import ImageLabels, Instances
from s4m_cache.sharding import ShardSpec
from s4m_cache.writer import ShardWriter
from s4m_pipeline.apps.bench.timing import choose_device, device_name, now, show
from s4m_pipeline.config.experiment import load_experiment
from s4m_pipeline.core import console
from s4m_pipeline.core.paths import CONFIGS
from s4m_pipeline.data.scenes.shapes import DEMO_FAMILIES
from s4m_pipeline.data.scenes.writer import Subset, write_scenes
from s4m_pipeline.models.checkpoint import write_weights
from s4m_pipeline.models.load import build_network
from s4m_pipeline.models.registry import register_all
from s4m_pipeline.refine.generation import begin_generation, label_shards
from s4m_pipeline.refine.inputs import load_inputs
from s4m_pipeline.refine.publish import publish_if_complete

CACHE_IMAGES = (100, 1_000, 10_000)
REFINE_IMAGES = (100, 1_000, 10_000)
NUM_SCENES = 20
Run = Callable[[int], object]
"""Does the work for a number of images."""


def main() -> None:
    """Measure and print a table."""
    register_all()
    device = choose_device()
    table = Table(title=f"More images, {device_name(device)}", title_justify="left")
    for column in ("", "images", "seconds", "ms per image", "most memory, MB"):
        table.add_column(column, justify="left" if not column else "right")
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder, "cache")
        add_rows(table, "write to the cache", CACHE_IMAGES, lambda count: write_labels(cache, count), device)
        add_rows(table, "read all of it", CACHE_IMAGES, lambda count: read_labels(cache, count), device)
        add_rows(table, "refine", REFINE_IMAGES, refine_in(Path(folder)), device)
    show(table)


def add_rows(table: Table, name: str, counts: Sequence[int], run: Run, device: torch.device) -> None:
    """A row for each number of images, after a warm-up with the first."""
    run(counts[0])
    table.add_section()
    for count in counts:
        forget_peak_memory()
        began = now(device)
        run(count)
        seconds = now(device) - began
        row = (f"{count:,}", f"{seconds:.2f}", f"{1e3 * seconds / count:.2f}", f"{peak_memory_mb():,.0f}")
        table.add_row(name, *row)


def forget_peak_memory() -> None:
    """Let the peak begin at what the process holds now: a benchmark before this one may have held more."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mb() -> float:
    """The most memory that the process has held since `forget_peak_memory`."""
    match = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None
    return int(match[1]) * 1024 / 1e6


def write_labels(root: Path, count: int) -> None:
    """A published generation of so many images, in a folder of its own."""
    masks = np.zeros((2, 32, 32), bool)
    masks[0, 4:20, 6:24] = masks[1, 10:30, 2:12] = True
    instances = Instances.create(masks=masks, labels=np.array([0, 1]), scores=np.array([0.9, 0.8]))
    spec = GenerationSpec(
        image_ids=range(count), classes=["a", "b"], category_ids=[1, 2], num_shards=1, fingerprint={}
    )
    shutil.rmtree(root / f"{count}", ignore_errors=True)
    generation = begin(root / f"{count}", spec)
    with ShardWriter(generation, ShardSpec(1, 1), max_images=256) as writer:
        for image_id in range(count):
            writer.append(ImageLabels(image_id=image_id, height=32, width=32, instances=instances))
    publish(generation)


def read_labels(root: Path, count: int) -> None:
    """Every mask that `write_labels` has written, in random order."""
    with CacheReader.current(root / f"{count}") as reader:
        for image_id in np.random.default_rng(0).permutation(reader.image_ids).tolist():
            reader.read(image_id).dense()


def refine_in(folder: Path) -> Run:
    """`s4m refine` for numbers of images, each time into a new cache."""

    data, weights = folder / "data", folder / "teacher.safetensors"
    write_scenes(data, (Subset("labeled", 0, 2), Subset("train", 1, NUM_SCENES)), DEMO_FAMILIES, (4, 99))
    places = {"root": data, "labeled": "labeled.json", "val": "labeled.json", "val_images": "labeled"}
    settings = [f"data.{key}={value}" for key, value in places.items()]
    settings += ["refine.min_score=0.34", "refine.workers=0", "refine.ground_truth=None"]
    settings += ["student.gate=off", "cache.embeddings=False"]
    _, config = load_experiment(CONFIGS / "demo/demo.py", settings)
    torch.manual_seed(0)
    network = build_network(config, len(DEMO_FAMILIES))
    write_weights(weights, network.state_dict(), tuple(DEMO_FAMILIES))

    def run(count: int) -> None:
        listed = list_images(data, count)
        options, config = load_experiment(CONFIGS / "demo/demo.py", [*settings, f"data.unlabeled={listed}"])
        inputs = load_inputs(options, config, weights)
        generation = begin_generation(inputs, Path(tempfile.mkdtemp(dir=folder)), None, 1)
        with console.result.capture():  # the stage's own tables
            label_shards(inputs, generation, ShardSpec(1, 1), stop=lambda: False)
            publish_if_complete(inputs, generation)

    return run


def list_images(data: Path, count: int) -> Path:
    """A JSON with so many images, which are links to the scenes of `data/train`."""
    drawn = json.loads((data / "train.json").read_text())
    images = []
    for number in range(count):
        scene = drawn["images"][number % NUM_SCENES]
        name = f"{number}-{scene['file_name']}"
        if not (data / "train" / name).exists():
            os.link(data / "train" / scene["file_name"], data / "train" / name)
        images.append({**scene, "id": number + 1, "file_name": name})
    path = data / f"unlabeled-{count}.json"
    path.write_text(json.dumps({"images": images, "annotations": [], "categories": drawn["categories"]}))
    return path
