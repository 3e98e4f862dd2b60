"""The commands that read labels, with the cache on S3 as moto serves it: what they do with a folder."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from s4m_cache.generations import current_number
from s4m_pipeline import read_pseudo_labels
from s4m_pipeline.apps.doctor.experiment import check_cache, check_config
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.core.locations import cache_location
from s4m_pipeline.experiment.cache_place import note_cache
from s4m_stages.cli import build_app
from tests.conftest import TinyCoco
from tests.test_student.labeled_scenes import painted_labels, publish_labels
from tests.test_suggest import split_experiment

IDS = (3, 4, 5, 6)


def s4m(*words: str | Path) -> str:
    """What a command prints as its result."""
    result = CliRunner().invoke(build_app(), [str(word) for word in words])
    assert result.exit_code == 0, result.output + str(result.exception)
    return result.stdout


@pytest.fixture
def address(store: Any, request: pytest.FixtureRequest) -> str:
    """A folder of this test in the store."""
    if not store.exists("commands"):
        store.mkdir("commands")
    return f"s3://commands/{request.node.name}"


@pytest.fixture
def works(tiny_coco: TinyCoco, store: Any, address: str, tmp_path: Path) -> dict[str, Path]:
    """Two experiments with the same two generations of labels, in a folder and in the store."""
    works = {name: tmp_path / name / "work" for name in ("local", "remote")}
    for work in works.values():
        work.mkdir(parents=True)
        split_experiment(tiny_coco, work)
    cache = works["local"] / "cache"
    for number, counts in ((1, (2, 2, 2, 2)), (2, (2, 0, 2, 1))):
        images = [painted_labels(tiny_coco, id_, count) for id_, count in zip(IDS, counts, strict=True)]
        publish_labels(cache, number, images)
    store.put(f"{cache}/", f"{address}/cache/", recursive=True)
    note_cache(works["remote"], f"{address}/cache")
    return works


def reported(work: Path) -> dict[str, Any]:
    """What the page of `s4m report` shows of the labels."""
    s4m("report", work)
    page = (work / "report.html").read_text()
    found = re.search(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.DOTALL)
    assert found is not None
    contents = json.loads(found[1])
    return {name: contents[name] for name in ("generations", "gallery", "gallery_reason")}


def test_commands__cache_in_a_store__do_what_they_do_with_a_folder(
    works: dict[str, Path], address: str, tiny_config: Path, tmp_path: Path
) -> None:
    results: dict[str, list[Any]] = {}
    for name, work in works.items():
        out = work.parent
        s4m("suggest", work, "--count", "3")
        s4m("export", "review", work, out / "task")
        s4m("export", "labels", work, out / "labels.json", "--generation", "1")
        s4m("export", "labels", work, out / "yolo", "--format", "yolo")
        s4m("data", "merge", work, out / "task/annotations.json", "--out", out / "merged")
        listed = ("--unlabeled", work / "unlabeled.json")
        imported = s4m("cache", "import", work, out / "task/annotations.json", *listed)
        results[name] = [
            (work / "suggested.txt").read_text(),
            json.loads((out / "task/annotations.json").read_text()),
            json.loads((out / "labels.json").read_text()),
            {path.name: path.read_text() for path in (out / "yolo").iterdir() if path.is_file()},
            imported.rpartition("/")[2],
            json.loads(s4m("cache", "info", work, "--json"))["summary"]["per_class"],
            json.loads(s4m("cache", "diff", work, "1", "2", "--json")),
            json.loads(s4m("cache", "verify", work, "--json"))["sound"],
        ]
        s4m("cache", "publish", work, "--generation", "2")
    assert results["remote"] == results["local"]
    cache = f"{address}/cache"
    assert current_number(cache_location(cache)) == 2
    assert not (works["remote"] / "cache").exists()

    s4m("export", "labels", cache, tmp_path / "by_address.json", "--generation", "1")
    assert json.loads((tmp_path / "by_address.json").read_text()) == results["local"][2]
    settings = [f"cache.root={cache}", "cache.embeddings=False"]
    _, checked = check_config(tiny_config, settings)
    assert checked is not None
    assert [finding.text for finding in check_cache(checked)] == [f"{cache}: 3 generations"]
    words = [word for setting in settings for word in ("--set", setting)]
    assert "refine" in s4m("plan", tiny_config, *words, "--images", "4", "--work-dir", works["remote"])


def test_report__cache_in_a_store__shows_the_same_generations_and_gallery(works: dict[str, Path]) -> None:
    local, remote = reported(works["local"]), reported(works["remote"])
    for fact in (*local["generations"], *remote["generations"]):
        del fact["state"]["published_at"]
    assert remote == local
    assert len(remote["generations"]) == 2
    assert len(remote["gallery"]["images"]) == len(IDS)


def test_review__images_in_a_store__are_copied(
    works: dict[str, Path], tiny_coco: TinyCoco, store: Any, address: str, tmp_path: Path
) -> None:
    work = works["remote"]
    store.put(f"{tiny_coco.root}/train/", f"{address}/data/train/", recursive=True)
    for name in ("labeled.json", "unlabeled.json"):
        store.put(str(work / name), f"{address}/data/{name}")
    record = work / "teacher/run.json"
    run = json.loads(record.read_text())
    files = {"labeled": "labeled.json", "unlabeled": "unlabeled.json"}
    run["config"]["data"] |= {"root": f"{address}/data", **files}
    record.write_text(json.dumps(run))
    s4m("export", "review", work, tmp_path / "task", "--all")
    for id_ in IDS:
        copy, image = tmp_path / f"task/images/{id_}.png", tiny_coco.images("train") / f"{id_}.png"
        assert copy.read_bytes() == image.read_bytes()


def test_commands__store_without_labels__say_where_they_looked(
    works: dict[str, Path], store: Any, address: str
) -> None:
    store.rm(f"{address}/cache", recursive=True)
    with pytest.raises(UserError, match=rf"work: no pseudo-labels found, none in {address}/cache\."):
        read_pseudo_labels(works["remote"])
    with pytest.raises(UserError, match=rf"{address}/other: no pseudo-labels found\."):
        read_pseudo_labels(f"{address}/other")
