"""Stands in for `s4m run`: the same files in the same places, within milliseconds and without networks.

It notes what it does in the file FAKE_JOURNAL; a stage lasts FAKE_SECONDS; the one named in FAKE_FAILS fails,
but makes its folder before.
The teacher with the seed FAKE_SLOW_SEED is done only after some labels were made.
"""

import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from cache import sealed
from s4m_pipeline.evaluation.results import keep_result

STAGES = ["teacher", "refine", "student", "evaluate"]
RESULTS = {
    "teacher": "teacher/weights.safetensors",
    "refine": "cache/CURRENT.json",
    "student": "student/weights.safetensors",
    "evaluate": "always/done/again",
}


def main(words: list[str]) -> None:
    """Do the stages from --from to --until in --work-dir."""
    options = dict(zip(words[2::2], words[3::2], strict=True))
    settings = [value for name, value in zip(words[2::2], words[3::2], strict=True) if name == "--set"]
    folder = Path(options["--work-dir"])
    first, last = (STAGES.index(options[name]) for name in ("--from", "--until"))
    for stage in STAGES[first : last + 1]:
        if (folder / RESULTS[stage]).exists():
            continue
        journal("begin", stage, folder)
        time.sleep(float(os.environ.get("FAKE_SECONDS", "0")))
        if stage == os.environ.get("FAKE_FAILS"):
            (folder / RESULTS[stage]).parent.mkdir(exist_ok=True)
            sys.exit(f"{stage} has no heart")
        globals()[f"do_{stage}"](folder, settings)
        journal("end", stage, folder)


def do_teacher(folder: Path, settings: list[str]) -> None:
    if f"teacher.seed={os.environ.get('FAKE_SLOW_SEED')}" in settings:
        deadline = time.monotonic() + 60
        while "end refine" not in Path(os.environ["FAKE_JOURNAL"]).read_text():
            assert time.monotonic() < deadline, "labels wait for a teacher that is not theirs"
            time.sleep(0.02)
    write_weights(folder / "teacher", settings)


def do_refine(folder: Path, settings: list[str]) -> None:
    assert (folder / "teacher/weights.safetensors").exists()
    (folder / "cache").mkdir(exist_ok=True)
    sealed.write(folder / "cache/CURRENT.json", {"generation": 1})


def do_student(folder: Path, settings: list[str]) -> None:
    assert (folder / "teacher/weights.safetensors").exists()
    assert (folder / "cache/CURRENT.json").exists() == ("student.source=labeled" not in settings)
    assert not list((folder / "teacher").glob("*.pth"))
    write_weights(folder / "student", settings)


def do_evaluate(folder: Path, settings: list[str]) -> None:
    """AP: 20 + seed; the student's is 10 more, and 2 less without refinement."""
    (seed,) = (int(text.partition("=")[2]) for text in settings if text.startswith("teacher.seed="))
    for stage, value in (("teacher", 20.0), ("student", 28.0 if "refine.prompt=None" in settings else 30.0)):
        weights = folder / stage / "weights.safetensors"
        if weights.exists():
            keep_result(folder, "test", stage, weights, {"AP": value + seed})


def write_weights(folder: Path, settings: list[str]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "iter_1.pth").touch()
    (folder / "weights.safetensors").write_text(json.dumps(settings))


def journal(event: str, stage: str, folder: Path) -> None:
    with Path(os.environ["FAKE_JOURNAL"]).open("a") as file:
        file.write(f"{event} {stage} {folder.name}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
