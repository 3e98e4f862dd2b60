"""`s4m suggest`: laws of the ranking, and the loop suggest, review, merge, run on a tiny experiment."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from s4m_cache.compare import ImageChange
from s4m_cache.generations import generations
from s4m_cache.reader import CacheReader
from s4m_pipeline.apps.ablation.more_labels import write_splits
from s4m_pipeline.apps.suggest.ranking import changed_fraction, percentile, spread
from s4m_pipeline.apps.suggest.suggestions import suggest
from s4m_pipeline.config.groups import DataOptions
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.data.coco import load_coco
from s4m_pipeline.evaluation.ground_truth import truth_masks
from s4m_stages.cli import build_app
from tests.conftest import CLASSES, TinyCoco
from tests.test_run import config  # noqa: F401 (a fixture)
from tests.test_student.conftest import student_experiment  # noqa: F401 (a fixture)
from tests.test_student.labeled_scenes import painted_labels, publish_labels


def test_percentile__ranks_are_shared_by_equal_values_and_average_where_unknown() -> None:
    ranks = percentile(np.array([5.0, 1.0, np.nan, 5.0, 9.0]))
    assert ranks[1] < ranks[0] == ranks[3] < ranks[4]
    assert ranks[2] == 0.5
    assert (percentile(np.full(4, 7.0)) == 0.5).all()
    assert percentile(np.array([5.0, 1.0, 9.0])).tolist() == percentile(np.exp([5.0, 1.0, 9.0])).tolist()


def test_spread__takes_the_highest_score_where_distances_are_equal() -> None:
    scores = np.array([0.2, 0.9, 0.5, 0.7])
    corners = np.eye(5)  # all at the same distance from each other
    assert spread(scores, corners[:4], corners[4:], 3) == [1, 3, 2]


def test_spread__of_equal_scores_each_is_the_farthest_from_those_before_and_from_the_labeled() -> None:
    rng = np.random.default_rng(0)
    points, known = rng.random((30, 3)), rng.random((2, 3))
    chosen = spread(np.full(30, 0.5), points, known, 10)
    assert len(set(chosen)) == 10
    for place, index in enumerate(chosen):
        taken = np.concatenate([known, points[chosen[:place]]])
        nearest = np.linalg.norm(points[:, None] - taken[None], axis=2).min(axis=1)
        assert nearest[index] == nearest.max()


def test_spread__a_copy_comes_after_all_that_differ_and_fewer_are_the_first_of_more() -> None:
    rng = np.random.default_rng(1)
    points = rng.random((8, 4))
    points[5], scores = points[2], np.where(np.isin(np.arange(8), [2, 5]), 0.9, rng.random(8) * 0.4 + 0.1)
    known = rng.random((1, 4))
    chosen = spread(scores, points, known, 8)
    assert chosen[-1] in (2, 5)
    assert spread(scores, points, known, 3) == chosen[:3]


def test_changed_fraction__is_0_for_equal_labels_and_1_for_nothing_in_common() -> None:
    def of(gained: int, lost: int, relabeled: int, *ious: float) -> float:
        return changed_fraction(ImageChange(1, gained, lost, relabeled, ious))

    assert of(0, 0, 0) == of(0, 0, 0, 1.0, 1.0) == 0
    assert of(2, 1, 0) == of(0, 0, 1, 1.0) == 1
    assert of(0, 0, 0, 0.6) == pytest.approx(0.4)


def tiny_experiment(tiny_coco: TinyCoco, work: Path, counts: dict[int, int]) -> DataOptions:
    """Pseudo-labels of the tiny training images in two generations; `counts`: objects left in the second."""
    for number, changed in ((1, {}), (2, counts)):
        images = [painted_labels(tiny_coco, image_id, changed.get(image_id, 2)) for image_id in range(1, 7)]
        publish_labels(work / "cache", number, images)
    return DataOptions(
        root=str(tiny_coco.root), labeled="train.json", train_images="train", unlabeled="train.json",
        val="val.json", val_images="val",
    )  # fmt: skip


def test_suggest__images_whose_labels_changed_come_first(tiny_coco: TinyCoco, tmp_path: Path) -> None:
    data = tiny_experiment(tiny_coco, tmp_path, {3: 1, 5: 0})
    notes: list[str] = []
    found = suggest(tmp_path, data, 6, notes.append)
    reasons = {it.image.id: it.reasons["change"] for it in found}
    assert sorted(reasons, key=lambda id_: -reasons[id_])[:2] == [5, 3]
    assert len(reasons) == 6 and not notes


def test_suggest__rare_class_of_the_labeled_images_ranks_above_the_common_one(
    tiny_coco: TinyCoco, tmp_path: Path
) -> None:
    document = json.loads(tiny_coco.annotations("train").read_text())
    rare = document["categories"][0]["id"]
    document["annotations"] = [a for a in document["annotations"] if a["category_id"] != rare]
    (tmp_path / "labeled.json").write_text(json.dumps(document))
    data = tiny_experiment(tiny_coco, tmp_path, {})
    data = data.model_copy(update={"labeled": str(tmp_path / "labeled.json")})
    found = {it.image.id: it.reasons["rare classes"] for it in suggest(tmp_path, data, 6, print)}
    with CacheReader.current(tmp_path / "cache") as reader:
        share = {id_: np.mean(reader.read(id_).instances.labels == 0) for id_ in found}
    assert CLASSES[0] == document["categories"][0]["name"]
    assert all(found[a] > found[b] for a in found for b in found if share[a] > share[b])


def split_experiment(tiny_coco: TinyCoco, work: Path) -> None:
    """The tiny training images, of which 1 and 2 are labeled, and the teacher's record of them."""
    whole = json.loads(tiny_coco.annotations("train").read_text())
    for name, images in (("labeled", whole["images"][:2]), ("unlabeled", whole["images"][2:])):
        ids = [image["id"] for image in images]
        annotations = [a for a in whole["annotations"] if a["image_id"] in ids and name == "labeled"]
        part = {**whole, "images": images, "annotations": annotations}
        (work / f"{name}.json").write_text(json.dumps(part))
    files = {name: str(work / f"{name}.json") for name in ("labeled", "unlabeled")}
    data = {"root": str(tiny_coco.root), "train_images": "train", "val": "val.json", "val_images": "val"}
    (work / "teacher").mkdir()
    run = {"config": {"data": data | files}, "sessions": [{"started": "2026-01-01T00:00:00+00:00"}]}
    (work / "teacher/run.json").write_text(json.dumps(run))


def test_more_labels__both_splits_have_as_many_and_only_one_those_that_were_suggested(
    tiny_coco: TinyCoco, tmp_path: Path
) -> None:
    split_experiment(tiny_coco, tmp_path)
    (tmp_path / "suggested.txt").write_text("# the best\n6.png\n4.png\n5.png\n")
    truth = tiny_coco.annotations("train")
    write_splits(tmp_path, truth, tiny_coco.images("train"), tmp_path / "more", seed=0, count=2)
    labeled = {
        name: load_coco(tmp_path / f"more/{name}/labeled.json", tiny_coco.images("train"))
        for name in ("suggested", "random")
    }
    assert [image.id for image in labeled["suggested"].images] == [1, 2, 4, 6]
    assert len(labeled["random"].images) == 4
    assert all(data.instances(image.id) for data in labeled.values() for image in data.images)


@pytest.mark.parametrize("to", ["coco", "labelme"])
def test_review_and_merge__without_a_correction__the_pseudo_labels_become_labels(
    tiny_coco: TinyCoco, tmp_path: Path, to: str
) -> None:
    split_experiment(tiny_coco, tmp_path)
    publish_labels(tmp_path / "cache", 1, [painted_labels(tiny_coco, id_, 2) for id_ in (3, 4, 5, 6)])
    (tmp_path / "three.txt").write_text("3.png\n5\n6.png\n")
    s4m("export", "review", tmp_path, tmp_path / "task", "--list", tmp_path / "three.txt", "--format", to)
    corrected = tmp_path / "task/annotations.json"
    if to == "labelme":
        s4m("data", "convert", "labelme", tmp_path / "task/images", corrected)
    s4m("data", "merge", tmp_path, corrected, "--out", tmp_path / "merged")
    merged = load_coco(tmp_path / "merged/labeled.json", tiny_coco.images("train"))
    truth = load_coco(tiny_coco.annotations("train"), tiny_coco.images("train"))
    assert [image.id for image in merged.images] == [1, 2, 3, 5, 6]
    for image in merged.images:
        ours, theirs = (truth_masks(data, image) for data in (merged, truth))
        order = [np.lexsort(found.masks.boxes.T) for found in (ours, theirs)]
        assert ours.labels[order[0]].tolist() == theirs.labels[order[1]].tolist()
        window = (0, 0, image.height, image.width)
        assert (ours.masks.dense(window)[order[0]] == theirs.masks.dense(window)[order[1]]).all()


def s4m(*words: str | Path) -> None:
    assert build_app()([str(word) for word in words], standalone_mode=False) in (None, 0)


def run(*words: str | Path) -> str:
    command = [sys.executable, "-m", "s4m_stages", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_loop__suggest_review_merge_run(config: Path, tmp_path: Path, capsys) -> None:  # noqa: F811
    work, task, out = tmp_path / "work", tmp_path / "task", tmp_path / "merged"
    run("run", config, "--work-dir", work, "--until", "refine")

    s4m("suggest", work, "--count", "2")
    names = [line for line in (work / "suggested.txt").read_text().splitlines() if line[0] != "#"]
    assert len(set(names)) == 2
    assert Image.open(work / "suggested.png").width > 0

    s4m("export", "review", work, task)
    document = json.loads((task / "annotations.json").read_text())
    assert sorted(image["file_name"] for image in document["images"]) == sorted(names)
    assert sorted(path.name for path in (task / "images").iterdir()) == sorted(names)
    with CacheReader.current(work / "cache") as reader:
        predrawn = {image["id"]: len(reader.read(image["id"]).instances) for image in document["images"]}
    assert len(document["annotations"]) == sum(predrawn.values())

    document["annotations"] = document["annotations"][:1]  # somebody deletes all others
    corrected = tmp_path / "corrected.json"
    corrected.write_text(json.dumps(document))
    capsys.readouterr()
    s4m("data", "merge", work, corrected, "--out", out)
    merged = {name: json.loads((out / f"{name}.json").read_text()) for name in ("labeled", "unlabeled")}
    assert [len(merged[name]["images"]) for name in ("labeled", "unlabeled")] == [5, 4]
    assert not {image["file_name"] for image in merged["unlabeled"]["images"]} & set(names)
    command = capsys.readouterr().out.strip().splitlines()[-1].partition("s4m run CONFIG ")[2].split()

    said = run("run", config, "--work-dir", work, "--until", "refine", *command)
    assert "teacher: " in said and len(generations(work / "cache")) == 2
    with CacheReader.current(work / "cache") as reader:
        assert len(reader) == 4
    with pytest.raises(UserError, match="2 images are not among the unlabeled"):
        s4m("data", "merge", work, corrected, "--out", tmp_path / "again")  # they are labeled now
