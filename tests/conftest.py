"""What several test modules share: a tiny data set and a tiny network."""

import gc
import json
import logging
import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from PIL import Image
from pycocotools import mask as coco_mask

if TYPE_CHECKING:
    from tests.published import WeightsServer

REPOSITORY = Path(__file__).parent.parent
CLASSES = ("bright", "dark")
SIZE_PX = 64

settings.register_profile(
    "short", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
settings.register_profile("long", settings.get_profile("short"), max_examples=1500, derandomize=False)
settings.load_profile("long" if "S4M_TORTURE" in os.environ else "short")


def pytest_runtest_setup() -> None:
    """Exempts what is imported from garbage collections, of which each data set of mmengine asks for one."""
    if "mmdet" in sys.modules and not gc.get_freeze_count():
        gc.freeze()


@dataclass(frozen=True)
class TinyCoco:
    """Rectangles on gray, 64 px: `train.json` (6 images), `val.json` (3), `test.json` (2), folders alike."""

    root: Path

    def annotations(self, name: str) -> Path:
        return self.root / f"{name}.json"

    def images(self, name: str) -> Path:
        return self.root / name


@pytest.fixture(autouse=True)
def undo_changes_of_the_process() -> Iterator[None]:
    """Modules that alter refinement, which a config may import, and torch's switch hold for one test only."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].use_deterministic_algorithms(False)
    names = [f"s4m_pipeline.apps.ablation.{kind}_sam" for kind in ("perfect", "useless")]
    altered = [module for module in (sys.modules.pop(name, None) for name in names) if module is not None]
    for module in altered[::-1]:
        module.undo()


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    """An S3 server without buckets, whose address and keys are in the environment."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    running.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*running.get_host_and_port()))
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "any")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield running
        running.stop()


@pytest.fixture
def store(server: Any) -> Iterator[Any]:
    """The file system of s3fs on that server."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()  # other commands are other processes, and list again
    yield s3fs.S3FileSystem(skip_instance_cache=True)
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="session")
def tiny_coco(tmp_path_factory: pytest.TempPathFactory) -> TinyCoco:
    """The tiny data set; tests must not write into it."""
    root = tmp_path_factory.mktemp("tiny_coco")
    for stream, (name, size) in enumerate({"train": 6, "val": 3, "test": 2}.items()):
        _write_subset(root, name, size, np.random.default_rng(stream))
    return TinyCoco(root)


def _write_subset(root: Path, name: str, size: int, rng: np.random.Generator) -> None:
    (root / name).mkdir()
    images, annotations = [], []
    for image_id in range(1, size + 1):
        pixels = rng.integers(100, 140, (SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
        for column in (2, 34):  # one rectangle left, one right
            label = int(rng.integers(2))
            height, width = (int(side) for side in rng.integers(14, 28, 2))
            top, left = int(rng.integers(2, 34)), column
            pixels[top : top + height, left : left + width] = 240 if label == 0 else 10
            mask = np.zeros((SIZE_PX, SIZE_PX), np.uint8, order="F")
            mask[top : top + height, left : left + width] = 1
            rle = coco_mask.encode(mask)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": 10 * (label + 1),
                    "bbox": [left, top, width, height],
                    "area": height * width,
                    "iscrowd": 0,
                    "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
                }
            )
        Image.fromarray(pixels).save(root / name / f"{image_id}.png")
        images.append({"id": image_id, "file_name": f"{image_id}.png", "width": SIZE_PX, "height": SIZE_PX})
    categories = [{"id": 10 * (label + 1), "name": text} for label, text in enumerate(CLASSES)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (root / f"{name}.json").write_text(json.dumps(document))


class CreatesFile:
    """Code in a pickle: creates a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.fixture(scope="session")
def tiny_config(tiny_coco: TinyCoco, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's network on the tiny data set from random weights, for a few steps of two images."""
    path = tmp_path_factory.mktemp("tiny_config") / "tiny.py"
    path.write_text(
        f"""
_base_ = [{str(REPOSITORY / "configs/demo/demo.py")!r}]
data = dict(
    _delete_=True, root={str(tiny_coco.root)!r}, labeled="train.json", train_images="train",
    val="val.json", val_images="val", test="test.json", test_images="test",
)
student = dict(workers=0)
sd = dict(enabled=False)
train_pipeline = [
    dict(type="LoadRGB"),
    dict(type="LoadInstances"),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
teacher = dict(
    _delete_=True, iterations=6, batch_size=2, workers=0, ema=0.5,
    validate_every=3, checkpoint_every=2, log_every=2, deterministic=True,
)
"""
    )
    return path


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of the tiny config's network, whose classes are those of the tiny data set."""
    import torch

    from s4m_pipeline.config.experiment import load_experiment
    from s4m_pipeline.models.checkpoint import write_weights
    from s4m_pipeline.models.load import build_network

    _, config = load_experiment(tiny_config, [])
    torch.manual_seed(0)
    network = build_network(config, len(CLASSES))
    network.init_weights()
    path = tmp_path_factory.mktemp("tiny_checkpoint") / "weights.safetensors"
    write_weights(path, network.state_dict(), CLASSES)
    return path


@pytest.fixture
def weights_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Iterator[WeightsServer]":
    """The only server that names of published weights lead to; nothing is fetched yet."""
    from s4m_pipeline.config import weight_files
    from tests.published import WeightsServer

    server = WeightsServer(weight_files.zoo())
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(weight_files, "zoo", lambda: server.zoo)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    hub = {"HF_HUB_CACHE": str(tmp_path / "hub"), "ENDPOINT": server.address}
    hub["HUGGINGFACE_CO_URL_TEMPLATE"] = f"{server.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    for name, value in hub.items():
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def mini_cityscapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature of Cityscapes, converted to `annotations`; tests must not write into it."""
    from s4m_pipeline.data.cityscapes.convert import convert
    from s4m_pipeline.data.miniature.cityscapes import write_cityscapes

    root = tmp_path_factory.mktemp("mini_cityscapes")
    write_cityscapes(root)
    convert(root, root / "annotations")
    return root


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """torch in one thread: pools of threads do not survive a fork, and sums depend on how many share them."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def points_by_purpose(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random points that do not depend on their order: each number of points has a stream of its own.

    mmdet draws the points of one layer after the other, our loss first those for the matching of all layers.
    """
    import torch

    streams: dict[Any, torch.Generator] = {}
    usual_seed, usual_rand = torch.manual_seed, torch.rand

    def seed(number: int) -> None:
        streams.clear()
        usual_seed(number)

    def rand(*size: Any, device: Any = None, generator: torch.Generator | None = None) -> torch.Tensor:
        size = size if isinstance(size[0], int) else tuple(size[0])
        if generator is None:
            new = torch.Generator().manual_seed(torch.initial_seed())
            generator = streams.setdefault(size[1:], new)
        return usual_rand(size, generator=generator)

    monkeypatch.setattr(torch, "manual_seed", seed)
    monkeypatch.setattr(torch, "rand", rand)
