"""`s4m reproduce --profile smoke`: the whole chain from raw files to the table, in processes of its own."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow


def reproduce(name: str, percent: int, folder: Path) -> "subprocess.CompletedProcess[str]":
    words = ["reproduce", name, str(folder / "data"), "--percent", str(percent), "--profile", "smoke"]
    return subprocess.run(
        [sys.executable, "-m", "s4m_stages", *words, "--work-dir", str(folder / "work")],
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module", params=[("cityscapes", 10), ("coco", 2)], ids=lambda param: param[0])
def smoke(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, str]:
    """Name, folder and printed result of a smoke run that began with nothing."""
    name, percent = request.param
    folder = tmp_path_factory.mktemp(name)
    done = reproduce(name, percent, folder)
    assert done.returncode == 0, done.stderr
    return name, folder, done.stdout


def records(folder: Path) -> dict[str, Any]:
    return {
        stage: json.loads((folder / "work" / stage / "run.json").read_text())
        for stage in ("teacher", "student")
    }


def test_smoke__trains_distilled_teacher_and_refreshed_student(smoke: tuple[str, Path, str]) -> None:
    name, folder, _ = smoke
    found = records(folder)
    assert {record["status"] for record in found.values()} == {"finished"}
    assert found["teacher"]["config"]["sd"]["enabled"]
    lines = (folder / "work/student/generations.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 3]
    arp = found["student"]["config"]["student"]["arp"]
    assert arp["placement"] == {"cityscapes": "same", "coco": "random"}[name]


def test_smoke__ends_with_the_table_and_the_report(smoke: tuple[str, Path, str]) -> None:
    name, folder, printed = smoke
    text = (folder / "work/reproduction.md").read_text()
    number = r"\d+\.\d"
    ours = f"{number} \\| {number}" if name == "cityscapes" else number
    paper = {"cityscapes": "33.3", "coco": "28.1"}[name]
    assert re.search(rf"\| student \| {ours} \| {paper} \|", text)
    assert "its figures are meaningless" in text
    assert paper in printed
    assert (folder / "work/report.html").is_file()


def test_smoke__of_cityscapes__is_scored_by_the_benchmark(smoke: tuple[str, Path, str]) -> None:
    name, folder, _ = smoke
    kept = json.loads((folder / "work/evaluation.json").read_text())["val"]
    for stage in ("teacher", "student"):
        assert ("cityscapes" in kept[stage]) == (name == "cityscapes")
        if name == "cityscapes":
            assert list((folder / "work" / stage / "cityscapes_val").glob("*_pred.txt"))
