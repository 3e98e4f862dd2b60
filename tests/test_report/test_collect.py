"""What the report gathers from an experiment's folder, at every stage of completeness."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from s4m_cache import sealed
from s4m_cache.generation import Generation
from s4m_cache.generations import begin
from s4m_cache.reader import CacheReader
from s4m_pipeline.apps.report.collect import DataSource
from s4m_pipeline.apps.report.gallery import Source, build_gallery, choose, disagreements
from s4m_pipeline.apps.report.generations import collect_generations
from s4m_pipeline.apps.report.trainings import provenance, thinned, training_charts
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.data.unlabeled import load_unlabeled
from s4m_pipeline.experiment.metrics import read_metrics
from s4m_pipeline.experiment.run_record import duration_s, duration_text
from s4m_pipeline.refine.gate import REJECTED
from tests.test_report.conftest import CLASSES, HOSTILE_NAME, NUM_IMAGES, Experiment, write_experiment


def teacher_iou(image_id: int) -> float:
    """Of a rectangle 20 px wide with itself, moved by as many pixels as the image id."""
    return (20 - image_id) / (20 + image_id)


def test_training_charts__losses_without_auxiliary_ones_and_finite_ap(finished: Experiment) -> None:
    losses, validation = training_charts(read_metrics(finished.folder / "teacher"))
    assert [line.name for line in losses.series] == ["total", "loss_cls"]
    assert losses.series[0].points == [(10, 4.0), (20, 2.0), (30, 40 / 30), (40, 1.0)]
    assert {line.name: line.points for line in validation.series} == {
        "AP": [(20, 10.0), (40, 20.0)],
        "AP50": [(20, 20.0)],
    }


def test_read_metrics__half_a_line_of_a_killed_run_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n[3]\n{"step": 2, "lo')
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 2.0}]
    assert read_metrics(tmp_path / "absent") == []


@pytest.mark.parametrize("count", [1, 2, 400, 401, 5000])
def test_thinned__keeps_both_ends_and_never_repeats_a_point(count: int) -> None:
    points = [(step, 0.5) for step in range(count)]
    kept = thinned(points, limit=400)
    assert len(kept) == min(count, 400)
    assert kept == sorted(set(kept))
    assert (kept[0], kept[-1]) == (points[0], points[-1])


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59.6, "1 min 0 s"), (372, "6 min 12 s"), (11100, "3 h 5 min")]
)
def test_duration_text__of_seconds(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_provenance__of_several_sessions_sums_them_and_names_each_device_once(finished: Experiment) -> None:
    table = provenance(finished.runs())
    facts = {row[0]: row[1] for row in table.rows}
    assert table.columns == ["teacher", "student"]
    assert (facts["duration"], facts["sessions"], facts["device"]) == ("2 min 0 s", "2", "cpu")
    assert facts["host"] == "here, <i>there</i>"
    assert facts["git commit"] == "c0ffee, with uncommitted changes"
    assert facts["sha256 of all.json"] == "ab" * 32
    assert facts["seed"] == "7"
    assert "torch" not in facts  # no stage has it


def test_provenance__session_of_a_killed_run_has_no_end() -> None:
    run = {"sessions": [{"started": "2026-01-02T03:00:00+00:00", "host": "here"}], "status": "running"}
    assert duration_s(run) is None
    assert dict(provenance({"teacher": run}).rows).get("duration") is None


def test_collect_generations__stored_and_removed_ones_in_order(finished: Experiment) -> None:
    first, second, third = finished.contents(images=0)["generations"]
    assert [first["status"], second["status"], third["status"]] == ["published", "current", "removed"]
    assert [first["decision"], second["decision"], third["decision"]] == [None, "taken", "rejected"]
    assert [g["held_out"]["PQ"] for g in (first, second, third)] == [40.0, 44.0, 30.0]
    assert second["summary"]["num_instances"] == 2 * NUM_IMAGES - 3
    assert second["summary"]["per_class"] == {CLASSES[0]: 10, CLASSES[1]: 7}
    agreement = second["agreement"]
    assert (agreement["kept"], agreement["lost"], agreement["gained"]) == (17, 3, 0)
    assert first["agreement"] is None and third["summary"] is None


def test_collect_generations__damaged_labels_are_told_and_do_not_hide_the_rest(data_source, tmp_path) -> None:
    experiment = write_experiment(tmp_path / "work", data_source)
    (victim,) = (experiment.folder / "cache/gen-0001/parts").glob("*/score/c.0")
    victim.write_bytes(victim.read_bytes()[:-1])
    first, second = collect_generations(experiment.folder / "cache")
    assert (first.status, second.status) == ("damaged", "current")
    assert "gen-0001" in str(first.fault)
    assert second.summary is not None
    assert second.agreement is None
    reason = experiment.contents()["gallery_reason"]
    assert "gen-0001" in reason


def test_collect_generations__refused_by_the_gate_is_told_from_an_unfinished_one(
    data_source, tmp_path
) -> None:
    experiment = write_experiment(tmp_path / "work", data_source, until="cache")
    root = experiment.folder / "cache"
    spec = Generation(root, 1).spec
    for number in (2, 3):
        begin(root, spec, number)
    sealed.write(root / "gen-0002" / REJECTED, {"quality": {"held_out": {"PQ": 12.0}, "gate": "rejected"}})
    facts = collect_generations(root)
    assert [fact.status for fact in facts] == ["current", "rejected", "incomplete"]
    assert [fact.decision for fact in facts] == [None, "rejected", None]
    assert facts[1].as_dict()["held_out"] == {"PQ": 12.0}
    assert experiment.contents(images=0)["stages"]["labels"]["number"] == 1  # what the student learns from


def test_disagreements__are_means_over_the_instances_of_an_image(finished: Experiment) -> None:
    with CacheReader(Generation(finished.folder / "cache", 1)) as reader:
        ids, found = disagreements(reader)
    assert ids.tolist() == list(range(1, NUM_IMAGES + 1))
    np.testing.assert_allclose(found, [(1 - teacher_iou(i)) / 2 for i in ids], atol=1e-6)


def test_choose__half_by_rank_and_half_spread_to_the_last() -> None:
    ids = np.arange(100)
    chosen, num_worst = choose(ids, ids / 100, 7)
    assert (chosen[:4], num_worst) == ([99, 98, 97, 96], 4)
    assert chosen[4::2] == [95, 0]
    assert chosen[5] in (47, 48)  # halfway
    assert choose(ids, np.zeros(100), 200) == (list(range(100)), 100)


def test_gallery__instances_have_their_ious_and_outlines(finished: Experiment) -> None:
    gallery = finished.contents(images=4)["gallery"]
    assert gallery["generations"] == [2, 1]
    assert (gallery["num_images"], gallery["num_worst"], len(gallery["images"])) == (NUM_IMAGES, 2, 4)
    worst = gallery["images"][0]
    assert worst["name"] == HOSTILE_NAME
    first, second = worst["labels"]["2"]["instances"]
    assert first["iou"] == pytest.approx(teacher_iou(10), abs=1e-6)
    assert first["truth"] == pytest.approx([teacher_iou(10), 1.0], abs=1e-6)
    assert second["truth"] == [1.0, 1.0]
    assert math.isnan(second["expected"])  # SAM was not asked
    assert first["before"] != first["after"] == worst["truth"][0]["path"]
    assert worst["photo"].startswith("data:image/webp;base64,")
    last = gallery["images"][-1]  # the first image; see `write_generation`
    assert [[each["ignored"] for each in last["labels"][number]["instances"]] for number in "12"] == [
        [False, True],
        [False],
    ]


def test_gallery__without_truth_and_with_an_unreadable_image(
    finished: Experiment, data_source, tmp_path
) -> None:
    list_path, root = data_source.data.path("unlabeled.json"), tmp_path / "images"
    root.mkdir()
    for path in data_source.data.path(".").glob("*.png"):
        (root / path.name).write_bytes(b"not an image" if path.name == "9.png" else path.read_bytes())
    source = Source(load_unlabeled(list_path, root), None)
    gallery = build_gallery([Generation(finished.folder / "cache", 1)], source, 10)
    assert len(gallery.images) == 9
    assert [text.partition(" ")[0] for text in gallery.unreadable] == ["9.png"]
    assert all(image["truth"] is None for image in gallery.images)


def test_collect__other_list_of_images_is_named_as_the_reason(
    finished: Experiment, data_source, tmp_path
) -> None:
    document = json.loads(data_source.data.path("unlabeled.json").read_text())
    document["images"].pop()
    other = tmp_path / "other.json"
    other.write_text(json.dumps(document))
    data = type(data_source.data)(**{**vars(data_source.data), "unlabeled": str(other)})
    contents = finished.contents(source=DataSource(data=data, ground_truth=None))
    assert contents["gallery"] is None
    assert "a different list of images" in contents["gallery_reason"]


@pytest.mark.parametrize("until", ["teacher", "cache"])
def test_collect__unfinished_experiment_has_what_there_is(data_source, tmp_path, until: str) -> None:
    contents = write_experiment(tmp_path / "work", data_source, until=until).contents()
    assert contents["stages"]["student"] is None
    assert contents["stages"]["teacher"] == {
        "status": "finished", "AP": 20.0, "iterations": 40, "duration": "2 min 0 s"
    }  # fmt: skip
    assert (contents["gallery"] is not None) == (until == "cache")
    assert [training["stage"] for training in contents["trainings"]] == ["teacher"]
    assert contents["evaluation"] == {}


def test_collect__evaluated_ap_counts_more_than_the_trainings_own(finished: Experiment) -> None:
    stages = finished.contents(images=0)["stages"]
    assert (stages["teacher"]["AP"], stages["student"]["AP"]) == (20.0, 23.5)
    assert stages["labels"]["instances"] == 17


def test_collect__empty_folder_is_refused_with_the_next_command(data_source, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"(?s)nothing to report.*s4m pretrain-teacher"):
        Experiment(tmp_path, data_source).contents()


def test_collect__damaged_evaluation_is_refused(data_source, tmp_path: Path) -> None:
    experiment = write_experiment(tmp_path / "work", data_source, until="teacher")
    (experiment.folder / "evaluation.json").write_text('{"val": ')
    with pytest.raises(UserError, match=r"evaluation\.json is no JSON"):
        experiment.contents()


def test_collect__damaged_picture_is_named_and_left_out(data_source, tmp_path: Path) -> None:
    experiment = write_experiment(tmp_path / "work", data_source, until="teacher")
    (experiment.folder / "augmentation.png").write_bytes(b"half a picture")
    Image.new("RGB", (90, 30), "teal").save(experiment.folder / "similarity.png")
    notes: list[str] = []
    contents = experiment.contents(note=notes.append)
    assert [picture["name"] for picture in contents["pictures"]] == ["similarity.png"]
    assert len(notes) == 1 and "augmentation.png" in notes[0]
