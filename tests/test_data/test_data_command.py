"""`s4m data`: reports, exit codes, and files left behind."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from s4m_pipeline.core.errors import UserError
from s4m_pipeline.data.check import check_images, check_validation
from s4m_pipeline.data.coco import parse_coco
from s4m_pipeline.data.findings import Problem
from s4m_stages.data import app
from tests.test_data.conftest import HEIGHT, WIDTH


def run(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


def snapshot(folder):
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()
    }


def test_check_images__every_fault_is_found_and_nothing_modified(data_set):
    exif = Image.Exif()
    exif[0x0112] = 6
    paths = [data_set.image_path(k) for k in range(4)]
    paths[0].write_bytes(paths[0].read_bytes()[:200])
    paths[1].unlink()
    Image.new("RGB", (24, 16)).save(paths[2], exif=exif)
    Image.new("RGB", (25, 16)).save(paths[3])
    before = snapshot(data_set.images)
    data, _ = parse_coco(data_set.write(), data_set.images)
    found = dict(check_images(data.images))
    assert snapshot(data_set.images) == before
    assert found.keys() == {
        Problem.FILE_UNREADABLE,
        Problem.FILE_MISSING,
        Problem.SIZE_UNROTATED,
        Problem.SIZE_DIFFERS,
    }
    assert found[Problem.FILE_MISSING] == ["b.png"]
    assert found[Problem.SIZE_DIFFERS] == ["sub/d.png (JSON: 24 x 16, file when upright: 25 x 16)"]


def test_check_images__rotation_that_fits_the_json_is_a_warning(data_set):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (16, 24), "white").save(data_set.image_path(0), exif=exif)
    data, _ = parse_coco(data_set.write(), data_set.images)
    assert dict(check_images(data.images)) == {Problem.EXIF_ROTATED: ["a.png"]}


def test_check_images__twelve_bit_values_in_a_16_bit_file_are_a_warning(data_set):
    camera = np.linspace(0, 4095, WIDTH * HEIGHT).astype(np.uint16).reshape(HEIGHT, WIDTH)
    Image.fromarray(camera).save(data_set.image_path(0))
    Image.fromarray(camera * 16).save(data_set.image_path(1))
    data, _ = parse_coco(data_set.write(), data_set.images)
    assert dict(check_images(data.images)) == {Problem.IMAGE_DARK: ["a.png"]}


def test_check_images__limit_below_the_file_is_reported(data_set):
    data, _ = parse_coco(data_set.write(), data_set.images)
    assert len(check_images(data.images, max_pixels=300).names(Problem.SIZE_OVER_LIMIT)) == 4


def test_check_validation__shared_image_and_other_categories_are_errors(data_set, validation_set):
    shutil.copy(data_set.image_path(0), validation_set.image_path(3))
    validation_set.document["categories"][1]["name"] = "wolf"
    data, _ = parse_coco(data_set.write(), data_set.images)
    validation, _ = parse_coco(validation_set.write(), validation_set.images)
    found = check_validation(data, validation)
    assert found.names(Problem.VALIDATION_SHARED) == ["a.png (= sub/d.png) in set.json"]
    assert len(found.names(Problem.CATEGORIES_DIFFER)) == 2


def test_data_check__sound_set_exits_0_and_shows_the_classes(data_set):
    result = run("check", data_set.write(), "--images", data_set.images)
    assert result.exit_code == 0, result.output
    assert "0 errors, 0 warnings" in result.output
    assert "dog" in result.output


def test_data_check__errors_exit_1_with_every_problem_in_json(data_set):
    data_set.document["annotations"][0]["category_id"] = 5
    data_set.document["annotations"][1]["iscrowd"] = 1
    data_set.image_path(1).write_bytes(b"")
    result = run("check", data_set.write(), "--images", data_set.images, "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == 1
    assert (report["errors"], report["warnings"]) == (2, 1)
    assert {p["code"]: p["names"] for p in report["problems"]} == {
        "file-empty": ["b.png"],
        "category-unknown": ["1 (category 5)"],
        "crowd": ["2"],
        "image-without-instance": ["a.png"],
    }
    assert report["instances_per_class"] == {"cat": 3, "dog": 3}
    assert report["instances_per_image"] == {"min": 0, "median": 2, "mean": 1.5, "max": 2}


def test_data_check__markup_in_names_is_printed_as_it_is(data_set):
    data_set.document["categories"][0]["name"] = "[bold]cat[/red]"
    data_set.document["images"][0]["file_name"] = "../[/x].png"
    result = run("check", data_set.write(), "--images", data_set.images)
    assert result.exit_code == 1
    assert "[bold]cat[/red]" in result.output
    assert "../[/x].png" in result.output


def test_data_split__writes_three_files_then_refuses_and_forces(data_set, validation_set, tmp_path):
    args = [
        "split",
        data_set.write(),
        "--images",
        data_set.images,
        "--out",
        tmp_path / "out",
        "--percent",
        50,
    ]
    args += ["--val", validation_set.write(), "--val-images", validation_set.images]
    assert run(*args).exit_code == 0
    before = snapshot(tmp_path / "out")
    assert {path.name for path in before} == {"labeled.json", "unlabeled.json", "split.json"}
    assert isinstance(run(*args).exception, UserError)
    assert snapshot(tmp_path / "out") == before
    assert run(*args, "--force", "--seed", 1).exit_code == 0


@pytest.mark.parametrize("choice", [[], ["--percent", "5", "--list", "x.txt"]], ids=["none", "two"])
def test_data_split__not_exactly_one_method_is_wrong_usage(data_set, tmp_path, choice):
    result = run("split", data_set.write(), "--out", tmp_path / "out", *choice)
    assert result.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_data_split__leak_leaves_nothing_behind(data_set, tmp_path):
    args = ("--images", data_set.images, "--val", data_set.write(), "--val-images", data_set.images)
    result = run("split", data_set.json_path, "--out", tmp_path / "out", "--percent", "50", *args)
    assert isinstance(result.exception, UserError)
    assert not (tmp_path / "out").exists()
