"""`s4m init`: what it writes runs, splits without leaks, fits the device, and destroys nothing."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from typer.testing import CliRunner

from s4m_pipeline.apps.init import timing
from s4m_pipeline.apps.init.gpu import COCO_R50, COCO_SWIN_T, IMAGENET
from s4m_pipeline.apps.init.small import TINY, IterationSeconds, SamSeconds
from s4m_pipeline.config.experiment import load_experiment
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.data.cityscapes.labels import INSTANCE_CLASSES
from s4m_pipeline.data.coco import load_coco
from s4m_pipeline.data.coins import REGIONS, TILE_PX, segment_coins, write_coins
from s4m_pipeline.data.loaders import coco_dataset, train_dataloader
from s4m_pipeline.models.load import build_network
from s4m_pipeline.models.registry import register_all
from s4m_stages.cli import build_app
from s4m_stages.pretrain_teacher import pretrain_teacher
from tests.published import pth


class Photos:
    """A copy of the tiny data set, to be damaged, and a folder of three other images."""

    def __init__(self, tiny: Any, folder: Path) -> None:
        self.root, self.out = folder / "my photos", folder / "out"
        shutil.copytree(tiny.root, self.root)
        (self.root / "more").mkdir()
        for name in "abc":
            pixels = np.random.default_rng(ord(name)).integers(0, 255, (80, 100, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(self.root / "more" / f"{name}.png")

    def init(self, *args: object, name: str = "mine", unlabeled: str = "more") -> Any:
        given = ["init", name, "--images", self.root / "train", "--labels", self.root / "train.json"]
        given += ["--unlabeled", self.root / unlabeled, "--out", self.out, *args]
        return CliRunner().invoke(build_app(), list(map(str, given)))

    def with_val(self) -> tuple[object, ...]:
        return ("--val", self.root / "val.json")

    def edit(self, name: str) -> "Edited":
        return Edited(self.root / name)


class Edited(dict[str, Any]):
    """A JSON file that is written back at the end of the block."""

    def __init__(self, path: Path) -> None:
        super().__init__(json.loads(path.read_text()))
        self.path = path

    def __enter__(self) -> "Edited":
        return self

    def __exit__(self, *error: object) -> None:
        self.path.write_text(json.dumps(self))


@pytest.fixture
def photos(tiny_coco, tmp_path, monkeypatch) -> Photos:
    """On a machine without a GPU and without SAM 2's weights, whose speed is known."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repo, name: None)
    monkeypatch.setattr(
        timing, "time_iterations", lambda text, labeled: IterationSeconds(teacher=1, student=2)
    )
    monkeypatch.setattr(timing, "time_sam", lambda name: SamSeconds(name=name, encode=0.1, decode=0.01))
    return Photos(tiny_coco, tmp_path)


@pytest.mark.parametrize("device", [[], ["--gpu-gb", 24], ["--gpu-gb", 6]], ids=["cpu", "24GB", "6GB"])
def test_init__for_a_device__writes_a_config_that_is_read_built_and_fed(
    photos, device, monkeypatch, tmp_path
):
    from mmengine.runner import Runner

    register_all()
    result = photos.init(*photos.with_val(), "--test", photos.root / "test.json", *device)
    assert result.exit_code == 0, result.output
    monkeypatch.chdir(tmp_path / "my photos")  # neither the repository nor where it was written from
    options, config = load_experiment(photos.out / "mine.py", [])
    assert (options.sam.model == "nano") == (device == [])
    assert (options.refine.prompt, options.refine.accept) == ("auto", "calibrated")
    assert (options.require_student().init_from == "teacher") == (device == [])
    data = options.data
    train = coco_dataset(data.path(data.labeled), data.path(data.train_images), config["train_pipeline"])
    loader = Runner.build_dataloader(train_dataloader(train, batch_size=2, workers=0, seed=0))
    crop = next(s for s in config["train_pipeline"] if s["type"] == "RandomCrop")["crop_size"][0]
    assert all(max(image.shape[1:]) <= crop for image in next(iter(loader))["inputs"])
    for split, count in (("val", 3), ("test", 2)):
        assert len(load_coco(*data.split(split)).images) == count
    assert data.path(data.unlabeled).is_dir()
    build_network(config, 2)
    assert options.student is not None
    assert options.student.unlabeled_batch_size <= 3


@pytest.mark.parametrize(
    ("device", "start", "rate", "backbone"),
    [
        (["--gpu-gb", 24], COCO_SWIN_T, 5e-5, "SwinTransformer"),
        (["--gpu-gb", 16], COCO_R50, 5e-5, "ResNet"),
        (["--gpu-gb", 24, "--from-scratch"], IMAGENET, 1e-4, "ResNet"),
    ],
)
def test_init__for_a_gpu__starts_from_a_network_for_coco_and_says_where_it_comes_from(
    photos, device, start, rate, backbone, monkeypatch, tmp_path
):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    result = photos.init(*photos.with_val(), *device)
    options, config = load_experiment(photos.out / "mine.py", [])
    assert (options.teacher.init_from, options.require_student().init_from) == (start, start)
    assert config["optim_wrapper"]["optimizer"]["lr"] == rate
    assert config["model"]["backbone"]["type"] == backbone
    fetched = f"{start} is fetched at first use. Without a network there: curl" in result.output
    assert fetched == (start != IMAGENET)
    written = " ".join((photos.out / "mine.py").read_text().split())
    assert ("a choice that was not measured" in written) == (start != IMAGENET)


@pytest.mark.slow
def test_init__for_a_gpu__trains_a_step_on_the_cpu_from_the_published_file(photos, weights_server, tmp_path):
    photos.init(*photos.with_val(), "--gpu-gb", 24)
    _, config = load_experiment(photos.out / "mine.py", [])
    network = build_network(config, 80)
    name = COCO_SWIN_T.removeprefix("mmdet://")
    weights_server.publish(name, pth({"state_dict": network.state_dict()}))
    settings = ["iterations=1", "batch_size=1", "precision=fp32", "workers=0", "validate_every=1"]
    smaller = ["sd.enabled=false", "model.train_cfg.num_points=64", *(f"teacher.{text}" for text in settings)]
    pretrain_teacher(photos.out / "mine.py", smaller, tmp_path / "work")
    record = json.loads((tmp_path / "work/teacher/run.json").read_text())
    assert record["status"] == "finished"
    assert record["sessions"][0]["initial_weights"].endswith(f"({COCO_SWIN_T})")


def test_init__says_what_a_machine_without_gpu_gets(photos):
    output = photos.init(*photos.with_val()).output
    assert "No GPU found" in output
    assert "--gpu-gb" in output
    assert "6 labeled, 3 validation, 3 unlabeled images" in output
    path = photos.out / "mine.py"
    assert f"Next: s4m doctor {path}\n      s4m run {path}\n" in output
    text = path.read_text()
    assert f"Commands:         s4m run {path}, or stage by stage\n" in text
    assert "# 0 bright\n# 1 dark\n" in text
    assert "sized for a CPU" in text
    estimate = "about 30 minutes on this machine: 590 iterations of the teacher at 1.00 s, 590 of the student"
    assert estimate in output and estimate in text


def test_init__sam_that_is_not_on_this_machine__is_written_and_not_fetched(photos, monkeypatch):
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_: pytest.fail("downloaded"))
    result = photos.init("--sam", "facebook/sam2.1-hiera-small")
    assert "facebook/sam2.1-hiera-small are not on this machine" in result.output
    options, _ = load_experiment(photos.out / "mine.py", [])
    assert (options.sam.model, options.cache.embeddings) == ("facebook/sam2.1-hiera-small", True)


def test_init__unknown_sam__is_refused_before_anything_is_read(photos):
    result = photos.init("--sam", "facebook/sam3")
    assert "unknown model" in str(result.exception)
    assert "decoding" not in result.output


def test_init__sam_that_is_found__is_taken(photos, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repo, name: str(tmp_path / name))
    photos.init()
    assert load_experiment(photos.out / "mine.py", [])[0].sam.model == TINY


def test_init__minutes_with_a_gpu__are_refused(photos):
    result = photos.init("--minutes", 5, "--gpu-gb", 24)
    assert str(result.exception).startswith("--minutes 5 is for machines without a GPU")
    assert not photos.out.exists()


def test_init__without_validation__holds_some_labeled_images_out(photos):
    assert photos.init("--val-percent", 34).exit_code == 0
    data = load_experiment(photos.out / "mine.py", [])[0].data
    labeled = load_coco(data.path(data.labeled), data.path(data.train_images))
    val = load_coco(*data.split("val"))
    names = [{image.file_name for image in part.images} for part in (labeled, val)]
    assert [len(part) for part in names] == [4, 2]
    assert names[0] | names[1] == {f"{k}.png" for k in range(1, 7)}
    assert all(image.path.is_file() for part in (labeled, val) for image in part.images)
    assert len(labeled.usable) + len(val.usable) == 12
    assert labeled.class_names == val.class_names == ["bright", "dark"]


@pytest.mark.parametrize("seed", range(6))
def test_init__without_validation__keeps_copies_of_an_image_on_one_side(photos, seed):
    with photos.edit("train.json") as document:
        names = [image["file_name"] for image in document["images"]]
    folder = photos.root / "train"
    (folder / names[-1]).write_bytes((folder / names[0]).read_bytes())
    assert photos.init("--val-percent", 50, "--seed", seed).exit_code == 0
    held_out = json.loads((photos.out / "mine" / "val.json").read_text())["images"]
    assert len({names[0], names[-1]} & {image["file_name"] for image in held_out}) in (0, 2)


def test_init__impossible_share_for_validation__is_refused_by_its_own_option(photos):
    result = photos.init("--val-percent", 0)
    assert isinstance(result.exception, UserError)
    assert str(result.exception).startswith("--val-percent 0: expected")


def test_init__with_all_photos_in_one_folder__takes_those_without_labels(photos):
    for name in "abc":
        shutil.copy(photos.root / "more" / f"{name}.png", photos.root / "train")
    result = photos.init("--val-percent", 34, unlabeled="train")
    assert result.exit_code == 0, result.output
    assert "6 images of the unlabeled folder" in result.output
    data = load_experiment(photos.out / "mine.py", [])[0].data
    listed = load_coco(data.path(data.unlabeled), data.path(data.train_images), labeled=False)
    assert {image.file_name for image in listed.images} == {"a.png", "b.png", "c.png"}
    assert not listed.annotations
    assert min(image.id for image in listed.images) > 6


def test_init__a_second_time__is_refused_and_changes_nothing(photos):
    photos.init()
    before = {path: path.read_bytes() for path in photos.out.rglob("*") if path.is_file()}
    result = photos.init(*photos.with_val())
    assert isinstance(result.exception, UserError)
    assert "is not overwritten" in str(result.exception)
    assert {path: path.read_bytes() for path in photos.out.rglob("*") if path.is_file()} == before


def test_init__with_errors_in_two_files__names_both_and_writes_nothing(photos):
    with photos.edit("train.json") as train, photos.edit("val.json") as val:
        train["annotations"][0]["category_id"] = 99
        val["images"][0]["width"] += 1
    result = photos.init(*photos.with_val())
    assert isinstance(result.exception, UserError)
    message = str(result.exception)
    assert "train.json cannot be used" in message and "val.json cannot be used" in message
    assert not photos.out.exists()


def test_init__without_a_usable_annotation__is_refused(photos):
    with photos.edit("train.json") as train:
        train["annotations"] = []
    assert "no annotation is usable" in str(photos.init(*photos.with_val()).exception)


@pytest.mark.parametrize("where", ["val", "test", "more"])
def test_init__with_an_image_in_two_parts__is_refused(photos, where):
    shutil.copy(
        photos.root / "train" / "1.png", photos.root / where / ("1.png" if where != "more" else "z.png")
    )
    result = photos.init(*photos.with_val(), "--test", photos.root / "test.json")
    assert isinstance(result.exception, UserError)
    assert "1.png" in str(result.exception) or "z.png" in str(result.exception)
    assert not photos.out.exists()


def test_init__with_hostile_class_names__still_writes_a_config(photos):
    with photos.edit("train.json") as train, photos.edit("val.json") as val:
        for document in (train, val):
            document["categories"][0]["name"] = '""" raise SystemExit  # {{ fileDirname }}'
    assert photos.init(*photos.with_val()).exit_code == 0
    assert load_experiment(photos.out / "mine.py", [])[0].data.labeled == "train.json"


@pytest.mark.parametrize("name", ["../up", "a b", ".hidden", ""])
def test_init__with_a_name_that_is_no_file_name__is_refused(photos, name):
    assert isinstance(photos.init(name=name).exception, UserError)
    assert not photos.out.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_init__into_a_folder_that_cannot_be_written__says_so(photos):
    photos.out.mkdir(mode=0o500)
    assert "cannot be written" in str(photos.init().exception)


def test_timing__of_the_smallest_config__writes_nothing(tiny_coco, tmp_path, monkeypatch):
    photos = Photos(tiny_coco, tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(timing, "_ITERATIONS", 2)
    measured = []
    real = timing.time_iterations
    monkeypatch.setattr(
        timing, "time_iterations", lambda *given: measured.append(real(*given)) or measured[-1]
    )
    monkeypatch.chdir(tmp_path)
    assert photos.init(*photos.with_val(), "--sam", "nano").exit_code == 0
    assert min(measured[0].teacher, measured[0].student) > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my photos", "out"]
    assert [path.name for path in photos.out.iterdir()] == ["mine.py"]


@pytest.mark.parametrize(
    ("device", "objects", "queries"),
    [
        ([], 10, 20),
        ([], 39, 60),
        ([], 100, 100),
        ([], 101, 100),
        (["--gpu-gb", 24], 60, 100),
        (["--gpu-gb", 24], 100, 150),
    ],
)
def test_init__for_images_full_of_objects__gives_the_network_queries_for_half_as_many_again(
    photos, device, objects, queries
):
    with photos.edit("train.json") as document:
        first, *others = document["annotations"]
        others = [other for other in others if other["image_id"] != first["image_id"]]
        x, y, width, height = first["bbox"]  # boxes differ a little: a repeated object counts once
        document["annotations"] = others + [
            {**first, "id": 1000 + k, "bbox": [x, y, width, height + k / 1000]} for k in range(objects)
        ]
    output = photos.init(*photos.with_val(), *device).output
    assert ("101 objects, and the small network finds at most 100" in output) == (objects == 101)
    _, config = load_experiment(photos.out / "mine.py", [])
    assert config["model"]["panoptic_head"]["num_queries"] == queries
    assert config["model"]["test_cfg"]["max_per_image"] >= queries


def test_coins__have_24_masks_and_regions_that_share_no_pixel(tmp_path):
    from skimage.data import coins

    labels = segment_coins(coins())
    assert labels.max() == 24
    assert min(np.bincount(labels.ravel())) > 1000
    covered = np.zeros(labels.shape, int)
    for region in REGIONS:
        covered[region.top : region.bottom, region.left : region.right] += 1
        assert min(region.right - region.left, region.bottom - region.top) >= TILE_PX
    assert covered.max() == 1
    counts = write_coins(tmp_path)
    for region in REGIONS:
        data = load_coco(tmp_path / region.json_name, tmp_path / region.name)
        assert (len(data.images), len(data.usable)) == counts[region.name]
        assert all(image.path.is_file() for image in data.images)
    assert not (tmp_path / "unlabeled.json").exists()


Objects = dict[str, list[tuple[str, str]]]


def objects_in_training(config: Path) -> Objects:
    """By file name: class and run lengths of each object of the labeled and the validation images."""
    data = load_experiment(config, [])[0].data
    found: Objects = {}
    for json_path, images in ((data.path(data.labeled), data.path(data.train_images)), data.split("val")):
        part = load_coco(json_path, images)
        classes = {category.id: category.name for category in part.categories}
        for image in part.images:
            found[image.file_name] = sorted(
                (classes[each["category_id"]], each["segmentation"]["counts"])
                for each in part.instances(image.id)
            )
    return found


@pytest.mark.parametrize("kind", ["yolo", "labelme", "label-images"])
def test_init__labels_in_any_format__are_named_and_trained_on_pixel_by_pixel(photos: Photos, kind: str):
    given = photos.init(name="given")
    assert given.exit_code == 0, given.output
    labels = photos.root / kind
    done = CliRunner().invoke(
        build_app(), ["export", "labels", str(photos.root / "train.json"), str(labels), "--format", kind]
    )
    assert done.exit_code == 0, done.output
    if kind == "yolo":
        (labels / "images").symlink_to(photos.root / "train")
    if kind == "labelme":  # imagePath is beside the file
        for path in labels.iterdir():
            shutil.copy(path, photos.root / "train")
        labels = photos.root / "train"
    done = photos.init("--labels", labels)
    assert done.exit_code == 0, done.output
    title = {"yolo": "YOLO segmentation", "labelme": "LabelMe", "label-images": "label images"}[kind]
    assert f"{title}, 6 images, 12 objects" in " ".join(done.output.split())
    found = objects_in_training(photos.out / "mine.py")
    assert found == objects_in_training(photos.out / "given.py")
    assert sum(map(len, found.values())) == 12


def test_init__cityscapes__is_trained_on_pixel_by_pixel(photos: Photos, mini_cityscapes: Path):
    train = mini_cityscapes / "leftImg8bit/train"
    done = photos.init("--images", train, "--labels", mini_cityscapes)
    assert done.exit_code == 0, done.output
    found = objects_in_training(photos.out / "mine.py")
    names = {number: name for name, number in INSTANCE_CLASSES.items()}
    assert len(found) == 40
    for name, objects in found.items():
        values = np.asarray(
            Image.open(mini_cityscapes / "gtFine/train" / name.replace("leftImg8bit", "gtFine_instanceIds"))
        )
        expected = [
            (names[value // 1000], coco_mask.encode(np.asfortranarray(values == value, np.uint8)))
            for value in np.unique(values).tolist()
            if value // 1000 in names
        ]
        assert objects == sorted((label, rle["counts"].decode()) for label, rle in expected)


def test_init__labels_that_cannot_be_converted_leave_nothing_behind(photos: Photos) -> None:
    (photos.root / "labels").mkdir()
    Image.new("L", (5, 5)).save(photos.root / "labels/1.png")
    done = photos.init("--labels", photos.root / "labels")
    assert isinstance(done.exception, UserError) and "5 x 5 pixels" in str(done.exception)
    assert not photos.out.exists()
