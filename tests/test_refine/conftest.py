"""An experiment ready to refine: a few embedded scenes, the demo's network untrained, the nano SAM 2."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from s4m_cache.sharding import ShardSpec
from s4m_pipeline.config.experiment import load_experiment
from s4m_pipeline.data.coco import load_coco
from s4m_pipeline.data.scenes.shapes import DEMO_FAMILIES
from s4m_pipeline.data.scenes.writer import Subset, write_scenes
from s4m_pipeline.models.checkpoint import write_weights
from s4m_pipeline.models.load import build_network
from s4m_pipeline.refine.gate import Outcome
from s4m_pipeline.refine.generation import begin_generation, label_shards
from s4m_pipeline.refine.inputs import RefineInputs, load_inputs
from s4m_pipeline.refine.publish import publish_if_complete

CONFIGS = Path(__file__).parents[2] / "configs/_base_"
NUM_UNLABELED = 6
ODD_SIZES = {2: (101, 67), 5: (66, 130)}  # width, height by image id: no multiples of the mask stride
Refine = Callable[..., None]


@pytest.fixture(scope="session")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data`, `refine_me.py` and `weights.safetensors`; tests must not write into it."""
    root = tmp_path_factory.mktemp("refine")
    write_scenes(
        root / "data", (Subset("train", 0, NUM_UNLABELED), Subset("val", 1, 2)), DEMO_FAMILIES, (4, 99)
    )
    _resize_some(root / "data")
    truth = json.loads((root / "data/train.json").read_text())
    (root / "data/unlabeled.json").write_text(json.dumps({**truth, "annotations": []}))
    config = root / "refine_me.py"
    config.write_text(
        f"""
_base_ = [{str(CONFIGS / "small.py")!r}, {str(CONFIGS / "refine.py")!r}]
data = dict(
    root={str(root / "data")!r}, labeled="val.json", train_images="train",
    unlabeled="unlabeled.json", val="val.json", val_images="val",
)
sam = dict(model="nano")
refine = dict(
    prompt="points", points=3, min_score=0.25, min_soft_area=5.0, nms_iou=None, seed=0, batch_size=4,
    workers=0, max_unreadable=0, ground_truth=None,
)
cache = dict(part_images=2, embeddings=False)
teacher = dict(iterations=1, batch_size=1)
train_pipeline = []
test_pipeline = [dict(type="LoadRGB"), dict(type="PackDetInputs")]
"""
    )
    write_untrained_teacher(config, root / "weights.safetensors", seed=0)
    return root


@pytest.fixture(scope="session")
def student_config(experiment: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a group `student`."""
    path = tmp_path_factory.mktemp("with_student") / "with_student.py"
    path.write_text(
        f"_base_ = [{str(experiment / 'refine_me.py')!r}]\n"
        "student = dict(\n"
        "    iterations=4, batch_size=1, unlabeled_batch_size=1, ema=0.9, burn_in=3, gate_drop=2.0\n"
        ")\n"
    )
    return path


def _resize_some(data: Path) -> None:
    document = json.loads((data / "train.json").read_text())
    for entry in document["images"]:
        if entry["id"] in ODD_SIZES:
            path = data / "train" / entry["file_name"]
            Image.open(path).resize(ODD_SIZES[entry["id"]]).save(path)
            entry["width"], entry["height"] = ODD_SIZES[entry["id"]]
    document["annotations"] = [a for a in document["annotations"] if a["image_id"] not in ODD_SIZES]
    (data / "train.json").write_text(json.dumps(document))


def write_untrained_teacher(config_path: Path, path: Path, seed: int) -> None:
    """Random weights find something everywhere, once the score threshold is low."""

    options, config = load_experiment(config_path, [])
    classes = load_coco(options.data.path("val.json"), options.data.path("val")).class_names
    torch.manual_seed(seed)
    model = build_network(config, len(classes))
    write_weights(path, model.state_dict(), tuple(classes))


@pytest.fixture
def refine(experiment: Path, tmp_path: Path) -> Refine:
    """`s4m refine` in this process, into `tmp_path / name`: `refine("name", "key=value", shard="1/2")`."""
    from s4m_stages.refine import refine as command

    def run(name: str, *overrides: str, **options: Any) -> None:
        arguments = {
            "shard": None,
            "generation": None,
            "teacher": experiment / "weights.safetensors",
            "preview": None,
            "follow": False,
            "ground_truth": None,
            "trust_checkpoint": False,
            **options,
        }
        command(experiment / "refine_me.py", overrides=list(overrides), work_dir=tmp_path / name, **arguments)

    return run


def inputs_of(config_path: Path, experiment: Path, *overrides: str) -> RefineInputs:
    """What refine needs of a config, with the untrained teacher of the experiment."""
    options, config = load_experiment(config_path, overrides)
    return load_inputs(options, config, experiment / "weights.safetensors")


def never() -> bool:
    """Whether to stop: no."""
    return False


def make_generation(
    inputs: RefineInputs, root: Path, number: int = 1, num_shards: int = 1, ranks: int = 1
) -> Outcome:
    """What training does: rank r labels shards r + 1, r + 1 + ranks, ...; rank 0 publishes."""
    generation = begin_generation(inputs, root, number, num_shards)
    for rank in range(ranks):
        assert label_shards(inputs, generation, ShardSpec(rank + 1, ranks), stop=never)
    return publish_if_complete(inputs, generation)


def labels_of(cache: Path, number: int = 1) -> dict[int, dict[str, np.ndarray]]:
    """Everything that a generation holds, by image and array."""
    from s4m_cache.generation import Generation
    from s4m_cache.reader import CacheReader
    from s4m_cache.records import pack_columns

    with CacheReader(Generation(cache, number)) as reader:
        return {
            image_id: pack_columns([reader.read(image_id, raw=True)])
            for image_id in reader.image_ids.tolist()
        }


def assert_same_labels(one: Path, other: Path, number: int = 1) -> None:
    """Two caches hold the same instances, bit by bit except for the last bits of both scores."""
    first, second = labels_of(one, number), labels_of(other, number)
    assert list(first) == list(second)
    for image_id, columns in first.items():
        for name, values in columns.items():
            tolerance = 1e-6 if name in ("score", "pred_iou") else 0
            np.testing.assert_allclose(
                values, second[image_id][name], 0, tolerance, err_msg=f"{image_id} {name}"
            )
