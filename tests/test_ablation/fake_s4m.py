"""Stands in for `s4m run`: the same files in the same places, within milliseconds and without networks.

It notes what it does in the file FAKE_JOURNAL. A stage lasts FAKE_SECONDS, a teacher until FAKE_TEACHERS of
them have begun. The stage named in FAKE_FAILS makes its folder and fails.
"""

import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np

from s4m_cache import sealed
from s4m_pipeline.evaluation.matches import Matches
from s4m_pipeline.experiment.evaluation_file import matches_file, write_evaluation

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
        not_needed = stage == "refine" and not reads_cache(settings)
        if not_needed or (folder / RESULTS[stage]).exists():
            continue
        journal("begin", stage, folder)
        time.sleep(float(os.environ.get("FAKE_SECONDS", "0")))
        if stage == os.environ.get("FAKE_FAILS"):
            (folder / RESULTS[stage]).parent.mkdir(exist_ok=True)
            sys.exit(f"{stage} has no heart")
        globals()[f"do_{stage}"](folder, settings)
        journal("end", stage, folder)


def do_teacher(folder: Path, settings: list[str]) -> None:
    while begun("teacher") < int(os.environ.get("FAKE_TEACHERS", "0")):
        time.sleep(0.02)
    write_weights(folder / "teacher", settings, 30.0 * seed_of(settings))


def do_refine(folder: Path, settings: list[str]) -> None:
    assert (folder / "teacher/weights.safetensors").exists()
    (folder / "cache").mkdir(exist_ok=True)
    sealed.write(folder / "cache/CURRENT.json", {"generation": 1})


def do_student(folder: Path, settings: list[str]) -> None:
    assert (folder / "teacher/weights.safetensors").exists()
    assert (folder / "cache/CURRENT.json").exists() == reads_cache(settings)
    assert not list((folder / "teacher").glob("*.pth"))
    write_weights(folder / "student", settings, 25.0 if "student.source=labeled" in settings else 20.0)


def reads_cache(settings: list[str]) -> bool:
    return not {"student.source=labeled", "student.source=truth"} & set(settings)


def do_evaluate(folder: Path, settings: list[str]) -> None:
    """AP: 20 + seed; the student's is 10 more, 2 less without refinement, and 8 more with the truth.

    Of merged objects only the teacher's are known.
    """
    seed = seed_of(settings)
    student = 30.0 - 2 * ("refine.prompt=None" in settings) + 8 * ("student.source=truth" in settings)
    for stage, value in (("teacher", 20.0), ("student", student)):
        weights = folder / stage / "weights.safetensors"
        if weights.exists():
            merged = {"merged_rate": 4.0 + seed} if stage == "teacher" else {}
            write_evaluation(weights, "test", {"AP": value + seed, **merged})
            matches_of(int(value) + seed).save(matches_file(folder / stage, "test"))


def matches_of(found: int) -> Matches:
    """Of two images of 100 objects each, in which as many are found, with perfect masks."""
    every = np.arange(2 * found)
    return Matches(
        image_ids=np.array([1, 2]),
        num_objects=np.full((2, 1), 100),
        image=every % 2,
        label=0 * every,
        score=np.ones(len(every)),
        matched=np.ones((len(every), 10), bool),
        ignored=np.zeros((len(every), 10), bool),
    )


def seed_of(settings: list[str]) -> int:
    (seed,) = (int(text.partition("=")[2]) for text in settings if text.startswith("teacher.seed="))
    return seed


def write_weights(folder: Path, settings: list[str], validation_ap: float) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "iter_1.pth").touch()
    run = {"status": "finished", "result": {"AP": validation_ap}}
    (folder / "run.json").write_text(json.dumps(run))
    (folder / "weights.safetensors").write_text(json.dumps(settings))


def journal(event: str, stage: str, folder: Path) -> None:
    with Path(os.environ["FAKE_JOURNAL"]).open("a") as file:
        file.write(f"{event} {stage} {folder.name}\n")


def begun(stage: str) -> int:
    return Path(os.environ["FAKE_JOURNAL"]).read_text().count(f"begin {stage} ")


if __name__ == "__main__":
    main(sys.argv[1:])
