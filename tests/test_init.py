"""`s4m init`: what it writes runs, splits without leaks, fits the device, and destroys nothing."""

import dataclasses
import itertools
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from s4m_pipeline.custom.fitting import _WEIGHT_BYTES, GB, Device, bytes_per_image, fit
from s4m_pipeline.data.coco import load_coco
from s4m_pipeline.data.coins import REGIONS, TILE_PX, segment_coins, write_coins
from s4m_pipeline.engine import parts as build
from s4m_pipeline.errors import UserError
from s4m_pipeline.options.experiment import load_experiment
from s4m_pipeline.options.student import ArpOptions, StudentOptions
from s4m_pipeline.registry import register_all
from stages.cli import build_app


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
def photos(tiny_coco, tmp_path) -> Photos:
    return Photos(tiny_coco, tmp_path)


@pytest.mark.parametrize("device", [[], ["--gpu-gb", 24], ["--gpu-gb", 6]], ids=["cpu", "24GB", "6GB"])
def test_init__for_a_device__writes_a_config_that_is_read_built_and_fed(
    photos, device, monkeypatch, tmp_path
):
    from mmdet.registry import MODELS
    from mmengine.runner import Runner

    register_all()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = photos.init(*photos.with_val(), "--test", photos.root / "test.json", *device)
    assert result.exit_code == 0, result.output
    monkeypatch.chdir(tmp_path / "my photos")  # neither the repository nor where it was written from
    options, config = load_experiment(photos.out / "mine.py", [])
    assert (options.sam.model == "nano") == (device == [])
    data = options.data
    train = build.coco_dataset(
        data.path(data.labeled), data.path(data.train_images), config["train_pipeline"]
    )
    loader = Runner.build_dataloader(build.train_dataloader(train, batch_size=2, workers=0, seed=0))
    crop = next(s for s in config["train_pipeline"] if s["type"] == "RandomCrop")["crop_size"][0]
    assert all(max(image.shape[1:]) <= crop for image in next(iter(loader))["inputs"])
    for split, count in (("val", 3), ("test", 2)):
        assert len(load_coco(*data.split(split)).images) == count
    assert data.path(data.unlabeled).is_dir()
    with torch.device("meta"):
        MODELS.build(build.model_config(config["model"], 2))
    assert options.student is not None
    assert options.student.unlabeled_batch_size <= 3


def test_init__says_what_a_machine_without_gpu_gets(photos, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    output = photos.init(*photos.with_val()).output
    assert "No GPU here" in output
    assert "--gpu-gb" in output
    assert "6 labelled, 3 validation, 3 unlabelled images" in output
    path = photos.out / "mine.py"
    assert f"Next: s4m doctor {path}\n      s4m run {path}\n" in output
    text = path.read_text()
    assert f"Commands:         s4m run {path}, or stage by stage\n" in text
    assert "# 0 bright\n# 1 dark\n" in text
    assert "sized for a CPU" in text


def test_init__without_validation__holds_some_labelled_images_out(photos):
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


def test_init__impossible_share_for_validation__is_refused_by_its_own_option(photos):
    result = photos.init("--val-percent", 0)
    assert isinstance(result.exception, UserError)
    assert str(result.exception).startswith("--val-percent 0: expected")


def test_init__with_all_photos_in_one_folder__takes_those_without_labels(photos):
    for name in "abc":
        shutil.copy(photos.root / "more" / f"{name}.png", photos.root / "train")
    result = photos.init("--val-percent", 34, unlabeled="train")
    assert result.exit_code == 0, result.output
    assert "6 images of the unlabelled folder" in result.output
    data = load_experiment(photos.out / "mine.py", [])[0].data
    listed = load_coco(data.path(data.unlabeled), data.path(data.train_images), labelled=False)
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
    assert "nothing to learn from" in str(photos.init(*photos.with_val()).exception)


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
            document["categories"][0]["name"] = '"""\nraise SystemExit  # {{ fileDirname }}'
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


SIZES = {"small": (100, 80), "photo": (4000, 3000), "panorama": (8000, 1000)}


@pytest.mark.parametrize(
    ("kind", "memory_gb"), list(itertools.product(SIZES, (None, 6, 11, 16, 24, 48, 80, 141)))
)
def test_fit__of_any_image_and_memory__is_sound(kind, memory_gb):
    device = Device(memory_bytes=None if memory_gb is None else memory_gb * GB)
    for num_labeled in (1, 300, 100_000):
        sizes = fit([SIZES[kind]], num_labeled, 3, 8, 400, device)
        assert sizes.crop_px <= sizes.short_px <= sizes.long_px <= 3 * sizes.short_px
        assert sizes.short_px % 32 == sizes.long_px % 32 == sizes.crop_px % 32 == 0
        assert 1 <= sizes.batch_size <= 16
        assert 0 < sizes.refresh_every <= sizes.burn_in * 3 <= sizes.student_iterations
        assert 0 < sizes.ema < 1
        if memory_gb is not None and memory_gb >= 11:
            assert (
                2 * sizes.batch_size * bytes_per_image(sizes.crop_px) + _WEIGHT_BYTES <= 0.9 * memory_gb * GB
            )


def test_fit__with_more_memory__never_gives_less():
    sizes_gb = (6, 11, 16, 48, 80, 141)
    fits = [fit([SIZES["photo"]], 1000, 1000, 8, 400, Device(memory_bytes=gb * GB)) for gb in sizes_gb]
    pixels = [sizes.batch_size * sizes.crop_px**2 for sizes in fits]
    assert pixels == sorted(pixels)
    assert (fits[0].sam, fits[-1].sam) == ("facebook/sam2.1-hiera-small", "facebook/sam2.1-hiera-large")


@pytest.mark.parametrize("memory_gb", [None, 4, 24])
@pytest.mark.parametrize("num_unlabeled", [1, 300, 20_000, 1_000_000])
def test_fit__labels_no_more_images_in_a_refresh_than_are_drawn_until_the_next(memory_gb, num_unlabeled):
    device = Device(memory_bytes=None if memory_gb is None else memory_gb * GB)
    sizes = fit([SIZES["photo"]], 300, num_unlabeled, 8, 400, device)
    assert sizes.refresh_every * sizes.unlabeled_batch_size >= num_unlabeled
    shares = dataclasses.asdict(sizes)
    names = ("batch_size", "unlabeled_batch_size", "burn_in", "refresh_every", "ema")
    StudentOptions(iterations=sizes.student_iterations, **{name: shares[name] for name in names})
    if num_unlabeled == 300:  # drawn several times in the share of the training that the paper has
        assert sizes.refresh_every == fit([SIZES["photo"]], 300, 1, 8, 400, device).refresh_every


@pytest.mark.parametrize("memory_gb", [None, 4, 24])
@pytest.mark.parametrize("area_px", [30, 400, 100_000])
def test_fit__small_objects_are_above_the_area_that_pseudo_labels_must_have(memory_gb, area_px):
    device = Device(memory_bytes=None if memory_gb is None else memory_gb * GB)
    sizes = fit([SIZES["small"]], 300, 300, 8, area_px, device)
    cells = area_px * (sizes.short_px / 80) ** 2 / 16
    assert 0.5 <= sizes.min_soft_area < max(cells, 0.6)
    assert sizes.min_soft_area == 5 if cells > 10 else sizes.min_soft_area < 5


@pytest.mark.parametrize("memory_gb", [None, 4, 24])
@pytest.mark.parametrize("num_unlabeled", [1, 3, 20_000])
def test_fit__gives_arp_a_pair_of_unlabelled_images(memory_gb, num_unlabeled):
    device = Device(memory_bytes=None if memory_gb is None else memory_gb * GB)
    sizes = fit([SIZES["photo"]], 1000, num_unlabeled, 8, 400, device)
    assert ArpOptions().num_pairs(sizes.unlabeled_batch_size) >= 1
    assert sizes.unlabeled_batch_size <= max(num_unlabeled, 2)


@pytest.mark.parametrize(
    ("device", "objects", "queries"),
    [([], 10, 20), ([], 39, 60), (["--gpu-gb", 24], 60, 100), (["--gpu-gb", 24], 100, 150)],
)
def test_init__for_images_full_of_objects__gives_the_network_queries_for_half_as_many_again(
    photos, device, objects, queries, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with photos.edit("train.json") as document:
        first, *others = document["annotations"]
        others = [other for other in others if other["image_id"] != first["image_id"]]
        document["annotations"] = others + [{**first, "id": 1000 + k} for k in range(objects)]
    assert photos.init(*photos.with_val(), *device).exit_code == 0
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
