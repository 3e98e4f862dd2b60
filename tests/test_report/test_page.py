"""Pictures, outlines and the page as text."""

import base64
import hashlib
import html.parser
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from s4m_pipeline.apps.report import collect, errors, gallery
from s4m_pipeline.apps.report.page import json_block, render
from s4m_pipeline.apps.report.pictures import GRID, data_uri, grid_size, outline
from s4m_stages.report import app
from tests.conftest import REPOSITORY
from tests.test_report.conftest import HOSTILE_NAME, Experiment, write_experiment

DEMO = REPOSITORY / "configs/demo/demo.py"


def drawn(path: str, frame_wh: tuple[int, int]) -> np.ndarray:
    """An outline filled by the even-odd rule, as bool on the grid."""
    rings = [
        np.array([[int(value) for value in point.split()] for point in ring.strip("Z").split("L")])
        for ring in path.split("M")[1:]
    ]
    canvas = np.zeros(frame_wh[::-1], np.uint8)
    cv2.fillPoly(canvas, rings, 1)
    return canvas.astype(bool)


@pytest.mark.parametrize("size_hw", [(40, 60), (300, 200), (1100, 1600)])
def test_outline__of_a_ring__covers_the_mask_and_leaves_its_hole(size_hw: tuple[int, int]) -> None:
    height, width = size_hw
    y, x = np.mgrid[:height, :width]
    distance = np.hypot((y + 0.5) / height - 0.5, (x + 0.5) / width - 0.5)
    mask = (distance < 0.4) & (distance > 0.15)
    frame = grid_size(height, width)
    assert max(frame) == GRID
    found = drawn(outline(mask), frame)
    expected = cv2.resize(mask.astype(np.float32), frame, interpolation=cv2.INTER_LINEAR) >= 0.5
    assert (found & expected).sum() / (found | expected).sum() > 0.985


def test_outline__of_nothing__is_empty() -> None:
    assert outline(np.zeros((10, 20), bool)) == ""


@pytest.mark.parametrize("max_chars", [60, 4000])
def test_outline__of_noise__keeps_to_its_length(max_chars: int) -> None:
    assert len(outline(np.random.default_rng(0).random((120, 120)) < 0.5, max_chars)) <= max_chars


def test_limits__together__keep_the_page_below_ten_megabytes() -> None:
    as_text = 4 / 3  # of bytes in base64
    pictures = len(collect.PICTURES) * collect.PICTURE_BYTES
    photos = gallery.MAX_PHOTO_BYTES + errors.MAX_PHOTO_BYTES
    outlines = gallery.MAX_OUTLINE_CHARS + errors.MAX_OUTLINE_CHARS
    size = (photos + pictures) * as_text + outlines
    assert size < 9.5e6


@pytest.mark.parametrize(("side_px", "max_bytes"), [(640, 200_000), (640, 9_000), (32, 200_000)])
def test_data_uri__of_noise__keeps_to_its_limits_and_shape(side_px: int, max_bytes: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 600, 3), np.uint8)
    kind, _, text = data_uri(pixels, side_px=side_px, max_bytes=max_bytes).partition(",")
    content = base64.b64decode(text)
    assert kind == "data:image/webp;base64"
    assert len(content) <= max_bytes
    with Image.open(io.BytesIO(content)) as image:
        assert max(image.size) <= min(side_px, 600)
        assert image.width / image.height == pytest.approx(2, rel=0.1)


def test_json_block__cannot_end_its_script_and_has_no_nan() -> None:
    value = {"</script>": ["<!--", float("nan"), float("inf"), 1e-7, "a&b", (1, 2)]}
    text = json_block(value)
    assert not set("<>&") & set(text)
    assert json.loads(text) == {"</script>": ["<!--", None, None, 1e-7, "a&b", [1, 2]]}


class Elements(html.parser.HTMLParser):
    """Start tags with their attributes, and the data of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.raw: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.get_starttag_text() and self.cdata_elem:
            self.raw.append(data)


def test_render__names_with_markup__add_no_element(finished: Experiment) -> None:
    hostile = Elements(render(finished.contents()))
    harmless = Elements(render({**finished.contents(images=0), "name": "plain"}))
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in harmless.tags]
    assert HOSTILE_NAME in json.loads(hostile.raw[1])["gallery"]["images"][0]["name"]


def test_render__refers_to_nothing_outside_and_its_policy_names_its_own_script(finished: Experiment) -> None:
    page = Elements(render(finished.contents()))
    assert not [attributes for _, attributes in page.tags if "src" in attributes]
    assert all(str(a["href"]).startswith("#") for _, a in page.tags if "href" in a)
    (policy,) = (str(a["content"]) for _, a in page.tags if "http-equiv" in a)
    style, _, script = page.raw
    for text in (style, script):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_report__of_a_folder__writes_the_page_with_the_recorded_settings(data_source, tmp_path) -> None:
    experiment = write_experiment(tmp_path / "work", data_source)
    content = written(experiment.folder, "--images", "3")
    assert len(content["gallery"]["images"]) == 3
    assert content["gallery"]["images"][0]["truth"] is not None
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT.*\+00:00", content["made_at"])


def written(folder: Path, *arguments: str) -> dict[str, Any]:
    """What the page holds that `s4m report` writes."""
    done = CliRunner().invoke(app, [str(folder), *arguments])
    assert done.exit_code == 0, done.output
    content: dict[str, Any] = json.loads(Elements((folder / "report.html").read_text()).raw[1])
    return content


def test_report__of_a_cache_alone__needs_a_config_for_the_gallery(data_source, tmp_path) -> None:
    experiment = write_experiment(tmp_path / "work", data_source, until="cache")
    shutil.rmtree(experiment.folder / "teacher")
    assert "--config" in written(experiment.folder)["gallery_reason"]
    settings = {"data.root": data_source.data.root, "data.train_images": ".", "data.labeled": "all.json"}
    settings |= {"data.unlabeled": "unlabeled.json", "refine.ground_truth": "all.json"}
    changes = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    content = written(experiment.folder, "--config", str(DEMO), "--images", "2", *changes)
    assert len(content["gallery"]["images"]) == 2


def test_report__recorded_settings_of_another_version__are_named_as_the_reason(data_source, tmp_path) -> None:
    experiment = write_experiment(tmp_path / "work", data_source, until="cache")
    path = experiment.folder / "teacher/run.json"
    run = json.loads(path.read_text())
    run["config"]["data"]["color"] = "blue"
    path.write_text(json.dumps(run))
    reason = written(experiment.folder)["gallery_reason"]
    assert "data.color" in reason
    assert "--config" in reason


def test_report__options_may_come_before_the_folder(data_source, tmp_path) -> None:
    experiment = write_experiment(tmp_path / "work", data_source, until="cache")
    assert CliRunner().invoke(app, ["--images", "0", str(experiment.folder)]).exit_code == 0
    assert (experiment.folder / "report.html").is_file()


def test_report__help__shows_both_uses() -> None:
    text = CliRunner().invoke(app, ["--help"]).output
    assert "WORK_DIR" in text
    assert "similarity" in text
    assert "--point" in CliRunner().invoke(app, ["similarity", "--help"], env={"COLUMNS": "200"}).output


def test_report__misspelt_command__is_reported_as_neither(tmp_path) -> None:
    done = CliRunner().invoke(app, ["similarty", "config.py"])
    assert done.exit_code == 2  # two words: the page takes one
    done = CliRunner().invoke(app, [str(tmp_path / "absent")])
    assert "no such folder and no command" in str(done.exception)
