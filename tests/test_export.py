"""`s4m export`: weights, mmdet's form, and pseudo-labels as COCO and YOLO, each read back."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from mmengine.hooks import EMAHook
from PIL import Image
from pycocotools.coco import COCO
from safetensors import safe_open
from scipy import ndimage

from s4m_cache.generation import GenerationSpec
from s4m_cache.generations import begin, publish
from s4m_cache.records import ImageLabels, Instances
from s4m_cache.sharding import ShardSpec
from s4m_cache.writer import ShardWriter
from s4m_pipeline.apps.export.mmdet_config import mmdet_config
from s4m_pipeline.apps.predict.predictor import Predictor
from s4m_pipeline.config.experiment import load_experiment
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.data.formats.outlines import fill
from s4m_pipeline.data.formats.yolo import label_file
from s4m_pipeline.data.unlabeled import load_unlabeled
from s4m_pipeline.models.checkpoint import read_weights, write_weights
from s4m_stages.export import mmdet, weights
from s4m_stages.export_labels import labels
from tests.conftest import CLASSES, TinyCoco

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def trained(
    tiny_config: Path, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Tensors, Tensors]:
    """A training checkpoint as mmengine's EMAHook leaves it; the average and the trained weights."""
    network = Predictor(tiny_config, tiny_checkpoint, device="cpu").network
    before = {name: value.clone() for name, value in network.state_dict().items()}
    runner: Any = SimpleNamespace(model=network, iter=0, max_iters=10, max_epochs=1)
    hook = EMAHook(momentum=0.25)
    hook.before_run(runner)
    hook.before_train(runner)
    # The first update copies, the second one averages.
    hook.after_train_iter(runner, 0)
    with torch.no_grad():
        for value in network.parameters():
            value += 1
    hook.after_train_iter(runner, 1)
    last = {name: value.clone() for name, value in network.state_dict().items()}
    average = {
        name: value.lerp(last[name], 0.25) if value.is_floating_point() else value
        for name, value in before.items()
    }
    checkpoint = {"state_dict": network.state_dict(), "meta": {"dataset_meta": {"classes": CLASSES}}}
    hook.before_save_checkpoint(runner, checkpoint)
    checkpoint["state_dict"]["sd_projection.weight"] = torch.zeros(1)
    path = tmp_path_factory.mktemp("trained") / "iter_2.pth"
    torch.save(checkpoint, path)
    return path, average, last


@pytest.mark.parametrize("kind", [None, "ema", "student"])
def test_weights__average_or_last_step_is_written_as_asked(
    kind: Any, trained: tuple[Path, Tensors, Tensors], tiny_config: Path, tmp_path: Path
) -> None:
    path, average, last = trained
    out = tmp_path / "new/out.safetensors"
    weights(tiny_config, [path, out], kind)
    found = read_weights(out)
    assert found.classes == CLASSES
    expected = last if kind == "student" else average
    assert found.tensors.keys() == expected.keys()  # what serves distillation only stays behind
    for name, value in expected.items():
        torch.testing.assert_close(found.tensors[name], value, msg=name)
    with safe_open(out, framework="pt") as file:
        about = file.metadata()
    assert (about["config"], about["source"], about["weights"]) == ("tiny", "iter_2.pth", kind or "ema")
    assert about["source_hash"].startswith("sha256:")
    Predictor(tiny_config, out)


def test_weights__set_that_the_file_does_not_hold_is_refused(
    trained: tuple[Path, Tensors, Tensors], tiny_config: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    plain = tmp_path / "plain.pth"
    torch.save({"state_dict": trained[2], "meta": {"dataset_meta": {"classes": CLASSES}}}, plain)
    out = tmp_path / "out.safetensors"
    with pytest.raises(UserError, match="no EMA weights"):
        weights(tiny_config, [plain, out], "ema")
    with pytest.raises(UserError, match="one set of weights"):
        weights(tiny_config, [tiny_checkpoint, out], "student")
    assert not out.exists()
    weights(tiny_config, [plain, out])
    with safe_open(out, framework="pt") as file:
        assert file.metadata()["weights"] == "student"


def test_weights__without_checkpoint_or_best_of_the_experiment_says_how_to_get_one(
    tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"has no best\.safetensors"):
        weights(tiny_config, [tmp_path / "out.safetensors"])


def test_weights__faulty_destination_or_checkpoint_writes_nothing(
    tiny_config: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    taken = tmp_path / "taken.safetensors"
    taken.write_text("mine")
    other = tmp_path / "other.safetensors"
    write_weights(other, read_weights(tiny_checkpoint).tensors, ("a", "b", "c"))
    for checkpoint, out, message in (
        (tiny_checkpoint, taken, "exists already"),
        (tiny_checkpoint, tmp_path / "out.pth", "ends in .safetensors"),
        (tiny_checkpoint, taken / "out.safetensors", "cannot be written: File exists"),
        (other, tmp_path / "out.safetensors", "does not fit the model"),
        (tmp_path / "absent.pth", tmp_path / "out.safetensors", "No checkpoint at"),
    ):
        with pytest.raises(UserError, match=message):
            weights(tiny_config, [checkpoint, out])
    assert taken.read_text() == "mine" and len(list(tmp_path.iterdir())) == 2


STOCK_MMDET = """
import sys
from s4m_pipeline.models.registry import stand_in_for_missing_ops  # for mmcv without compiled operators
stand_in_for_missing_ops()

import numpy as np
from mmdet.apis import inference_detector, init_detector

folder, *images = sys.argv[1:]
network = init_detector(f"{folder}/mmdet_config.py", f"{folder}/mmdet_checkpoint.pth", device="cpu")
assert type(network).__module__.startswith("mmdet."), type(network)
for number, found in enumerate(inference_detector(network, images)):
    instances = found.pred_instances
    names = [network.dataset_meta["classes"][label] for label in instances.labels]
    np.savez(f"{folder}/{number}.npz", names=names, scores=instances.scores, masks=instances.masks)
ours = {name for name in sys.modules if name.startswith(("s4m_pipeline", "stages", "cache"))}
packages = {"s4m_pipeline", "s4m_pipeline.models", "s4m_pipeline.core"}
modules = {"s4m_pipeline.models.registry", "s4m_pipeline.core.errors", "s4m_pipeline.core.startup"}
assert ours - packages == modules, ours
"""


def test_mmdet__stock_mmdet_finds_the_same_objects(
    tiny_config: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    photos = [tmp_path / "upright.png", tmp_path / "turned.jpg"]
    for path in photos:
        colors = rng.integers(0, 256, (6, 9, 3), dtype=np.uint8)  # channels differ: a swap would show
        Image.fromarray(colors).resize((90, 60)).save(path, exif=exif if path.suffix == ".jpg" else None)
    overrides = ["model.test_cfg.max_per_image=100"]  # more than mmdet can report

    mmdet(tiny_config, [tiny_checkpoint, tmp_path / "out"], None, overrides)

    command = [sys.executable, "-c", STOCK_MMDET, str(tmp_path / "out"), *map(str, photos)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    predictor = Predictor(tiny_config, tiny_checkpoint, overrides=overrides, min_score=0, device="cpu")
    for number, path in enumerate(photos):
        theirs, ours = np.load(tmp_path / f"out/{number}.npz"), predictor.predict(path)
        filled = theirs["masks"].any((1, 2))  # of masks without pixels we say nothing
        order = np.flatnonzero(filled)[np.argsort(-theirs["scores"][filled], kind="stable")]
        assert len(ours) == len(order) > 10
        assert [CLASSES[label] for label in ours.labels] == theirs["names"][order].tolist()
        np.testing.assert_allclose(ours.scores, theirs["scores"][order], rtol=1e-5)
        np.testing.assert_array_equal(ours.masks, theirs["masks"][order])


def test_mmdet_config__pipeline_that_reads_otherwise_is_refused(tiny_config: Path) -> None:
    _, config = load_experiment(tiny_config, [])
    assert mmdet_config(config, CLASSES)["model"]["data_preprocessor"]["bgr_to_rgb"] is True
    assert config["model"]["data_preprocessor"]["bgr_to_rgb"] is False  # ours is as it was
    config["test_pipeline"][0]["type"] = "LoadImageFromFile"
    with pytest.raises(UserError, match="Expected LoadRGB"):
        mmdet_config(config, CLASSES)


def blobs(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A mask of several parts with holes."""
    noise = ndimage.gaussian_filter(rng.random((height, width)), 4)
    return noise > np.quantile(noise, 0.6)


@pytest.fixture
def experiment(tiny_coco: TinyCoco, tmp_path: Path) -> Path:
    """Folder of an experiment: a teacher's run.json, and a published generation of the training images."""
    folder = tmp_path / "experiment"
    (folder / "teacher").mkdir(parents=True)
    data = {"root": str(tiny_coco.root), "labeled": "train.json", "unlabeled": "train.json"}
    data |= {"train_images": "train", "val": "val.json", "val_images": "val"}
    (folder / "teacher/run.json").write_text(json.dumps({"config": {"data": data}, "sessions": [{}]}))
    unlabeled = load_unlabeled(tiny_coco.annotations("train"), tiny_coco.images("train"))
    spec = GenerationSpec(
        image_ids=[image.id for image in unlabeled.images],
        classes=CLASSES,
        category_ids=[10, 20],
        num_shards=1,
        fingerprint={"image names": unlabeled.digest},
    )
    generation = begin(folder / "cache", spec)
    rng = np.random.default_rng(0)
    with ShardWriter(generation, ShardSpec(1, 1)) as writer:
        for image in unlabeled.images:
            count = 0 if image.id == 2 else 3
            masks = np.array([blobs(rng, 64, 64) for _ in range(count)], bool).reshape(count, 64, 64)
            masks[:1] = False  # a mask without pixels
            if image.id == 2:  # an ignored one
                count, masks = 1, np.ones((1, 64, 64), bool)
            instances = Instances.create(
                masks=masks, labels=[0, 1, 0][:count], scores=[0.9] * count, ignored=[image.id == 2] * count
            )
            writer.append(ImageLabels(image_id=image.id, height=64, width=64, instances=instances))
    publish(generation)
    return folder


@pytest.mark.parametrize("start", ["experiment", "cache"])
def test_labels__coco_is_read_back_by_pycocotools(experiment: Path, start: str, tmp_path: Path) -> None:
    folder = experiment if start == "experiment" else experiment / "cache"
    labels(folder, tmp_path / "new/out.json")

    body = json.loads((tmp_path / "new/out.json").read_text())
    assert [entry["id"] for entry in body["annotations"]] == list(range(1, 12))
    assert {entry["id"]: entry["file_name"] for entry in body["images"]} == {
        number: f"{number}.png" for number in range(1, 7)
    }
    coco = COCO(tmp_path / "new/out.json")
    assert [category["name"] for category in coco.cats.values()] == list(CLASSES)
    rng = np.random.default_rng(0)
    for image_id in (1, 3, 4, 5, 6):
        expected = [blobs(rng, 64, 64) for _ in range(3)][1:]
        annotations = coco.loadAnns(coco.getAnnIds(image_id))
        assert [entry["category_id"] for entry in annotations] == [20, 10]
        for entry, mask in zip(annotations, expected, strict=True):
            np.testing.assert_array_equal(coco.annToMask(entry), mask)
            assert entry["segmentation"]["size"] == [64, 64] and entry["iscrowd"] == 0
            assert entry["area"] == mask.sum() > 0
    assert [entry["iscrowd"] for entry in coco.loadAnns(coco.getAnnIds(2))] == [1]


def test_labels__yolo_outlines_filled_again_give_the_masks(experiment: Path, tmp_path: Path) -> None:
    out = tmp_path / "yolo"
    labels(experiment, out, "yolo")

    assert (out / "labels/2.txt").read_text() == ""
    assert len(list((out / "labels").iterdir())) == 6
    assert yaml.safe_load((out / "data.yaml").read_text()) == {
        "train": "images.txt",  # no `path`: Ultralytics takes a relative one from where it was called
        "val": "images.txt",
        "names": {0: "bright", 1: "dark"},
    }
    assert (out / "images.txt").read_text().split() == [f"./images/{number}.png" for number in range(1, 7)]
    rng = np.random.default_rng(0)
    for image_id in (1, 3, 4, 5, 6):
        expected = [blobs(rng, 64, 64) for _ in range(3)][1:]
        lines = (out / f"labels/{image_id}.txt").read_text().splitlines()
        assert [line.split()[0] for line in lines] == ["1", "0"]
        for line, mask in zip(lines, expected, strict=True):
            corners = np.array(line.split()[1:], float).reshape(-1, 2)
            assert corners.min() >= 0 and corners.max() <= 1
            filled = fill(corners * 64, mask.shape)
            assert (filled & mask).sum() > 0.9 * (filled | mask).sum()


@pytest.mark.parametrize(
    "image, expected",
    [
        ("1.png", "labels/1.txt"),
        ("a.b/c.d.png", "labels/a.b/c.d.txt"),
        ("images/1.png", "images/labels/1.txt"),
        ("images/x/images/y/1.png", "images/images/x/labels/y/1.txt"),
        ("myimages/images.png", "labels/myimages/images.txt"),
    ],
)
def test_label_file__is_where_ultralytics_looks(image: str, expected: str) -> None:
    """Its rule: the last `/images/` of the image's path becomes `/labels/`, the ending `.txt`."""
    assert label_file(image) == expected
    rule = "/labels/".join(f"/data/images/{image}".rsplit("/images/", 1)).rsplit(".", 1)[0] + ".txt"
    assert f"/data/{label_file(image)}" == rule


@pytest.mark.parametrize("category_ids", [[0, 5], [1, 5]])
def test_labels__category_zero_is_warned_of(
    category_ids: list[int], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    names = ['traffic: "light"', "n\u0153ud \U0001f600"]
    spec = GenerationSpec(
        image_ids=[1], classes=names, category_ids=category_ids, num_shards=1, fingerprint={}
    )
    generation = begin(tmp_path / "cache", spec)
    instances = Instances.create(masks=np.ones((1, 4, 4), bool), labels=[0], scores=[0.9])
    with ShardWriter(generation, ShardSpec(1, 1)) as writer:
        writer.append(ImageLabels(image_id=1, height=4, width=4, instances=instances))
    publish(generation)
    labels(tmp_path / "cache", tmp_path / "out.json")
    error = " ".join(capsys.readouterr().err.split())
    assert ("reads as no class" in error) == (0 in category_ids)
    labels(tmp_path / "cache", tmp_path / "yolo", "yolo")
    data = yaml.safe_load((tmp_path / "yolo/data.yaml").read_text(encoding="utf-8"))
    assert data["names"] == dict(enumerate(names))


def test_labels__names_of_other_images_are_not_taken(
    experiment: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = experiment / "teacher/run.json"
    run.write_text(run.read_text().replace('"unlabeled": "train.json"', '"unlabeled": "val.json"'))
    labels(experiment, tmp_path / "out.json")
    assert "file names are unknown" in " ".join(capsys.readouterr().err.split())
    body = json.loads((tmp_path / "out.json").read_text())
    assert body["images"][0]["file_name"] == "000000000001.jpg"


def test_labels__names_are_taken_from_a_json_or_a_folder(
    experiment: Path, tiny_coco: TinyCoco, tmp_path: Path
) -> None:
    named = tmp_path / "named.json"
    entries = [{"id": number, "file_name": f"street/{number}.png"} for number in range(1, 7)]
    named.write_text(json.dumps({"images": entries}))
    labels(experiment / "cache", tmp_path / "yolo", "yolo", None, named)
    assert (tmp_path / "yolo/labels/street/6.txt").is_file()
    labels(experiment / "cache", tmp_path / "out.json", "coco", None, tiny_coco.images("train"))
    body = json.loads((tmp_path / "out.json").read_text())
    assert body["images"][5]["file_name"] == "6.png"


@pytest.mark.parametrize(
    "names, message",
    [
        (["../a.png"] + [f"{number}.png" for number in range(2, 7)], r"not below the image folder: \.\./a"),
        (["/a.png"] + [f"{number}.png" for number in range(2, 7)], "not below the image folder: /a"),
        (["1.png", "2.png"], "no file names for images 3, 4, 5, 6"),
        (
            ["1.png", "1.jpg", "3.png", "4.png", "5.png", "6.png"],
            r"would share the label file labels/1\.txt",
        ),
    ],
    ids=["above", "absolute", "too few", "one stem"],
)
def test_labels__faulty_names_are_refused(
    experiment: Path, names: list[str], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "named.json"
    path.write_text(json.dumps({"images": [{"id": i, "file_name": n} for i, n in enumerate(names, 1)]}))
    with pytest.raises(UserError, match=message):
        labels(experiment, tmp_path / "out", "yolo", None, path)
    assert not (tmp_path / "out").exists()


def test_labels__faulty_source_or_destination_is_refused(experiment: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken.json"
    taken.write_text("mine")
    for folder, out, to, message in (
        (tmp_path / "absent", tmp_path / "out.json", "coco", "no pseudo-labels found"),
        (experiment, taken, "coco", "exists already"),
        (experiment, tmp_path / "out", "coco", r"ends in \.json"),
        (experiment, experiment, "yolo", "exists already"),
    ):
        with pytest.raises(UserError, match=message):
            labels(folder, out, to)
    assert taken.read_text() == "mine"
