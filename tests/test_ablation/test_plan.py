"""What rows share, and what sets them apart."""

import json
import shutil
from pathlib import Path

import pytest

from s4m_pipeline.ablation.plan import Setting, Trial, plan_trials
from s4m_pipeline.ablation.tables import TABLES, TableName
from s4m_pipeline.errors import UserError


def plan(study: Path, root: Path, name: TableName, *overrides: str, seed: int = 0) -> dict[str, Trial]:
    """The trials of a table with one seed, by row."""
    table = TABLES[name]
    trials = plan_trials(Setting(study, root, overrides), name, table, table.rows, [seed])
    return {trial.row.name: trial for trial in trials}


@pytest.mark.parametrize("name", [name for name in TABLES if name != "labels"])
def test_plan__of_every_table__needs_one_result_for_each_row_and_seed(name, study, tmp_path):
    trials = [*plan(study, tmp_path, name).values(), *plan(study, tmp_path, name, seed=1).values()]
    assert len({trial.result for trial in trials}) == len(trials) == 2 * len(TABLES[name].rows)
    assert len({trial.link for trial in trials}) == len(trials)


def test_plan__of_components__shares_teachers_and_labels(study, tmp_path):
    rows = plan(study, tmp_path, "components")
    teachers = [
        [name for name in rows if rows[name].teacher == folder] for folder in _folders(rows, "teacher")
    ]
    labels = [[name for name in rows if rows[name].labels == folder] for folder in _folders(rows, "labels")]
    assert sorted(teachers) == [["I", "III"], ["II", "IV", "V", "VI"]]
    assert sorted(labels) == [["I", "III"], ["II", "V"], ["IV", "VI"]]


def test_plan__of_sd_stage__distilled_students_begin_with_the_others_teachers_and_labels(study, tmp_path):
    rows = plan(study, tmp_path, "sd-stage")
    assert (rows["none"].teacher, rows["none"].labels) == (rows["student"].teacher, rows["student"].labels)
    assert (rows["teacher"].teacher, rows["teacher"].labels) == (rows["both"].teacher, rows["both"].labels)


def test_plan__same_experiment_in_several_tables__is_one_folder(study, tmp_path):
    components = plan(study, tmp_path, "components", "refine.prompt=points")
    control = plan(study, tmp_path, "control", "sd.enabled=False")
    assert components["III"].student == control["raw"].student
    prompts = plan(study, tmp_path, "prompts", "sd.enabled=True")
    assert components["VI"].student == prompts["points"].student


def test_plan__control__needs_no_pseudo_labels(study, tmp_path):
    rows = plan(study, tmp_path, "control")
    assert rows["control"].labels is None
    assert rows["raw"].labels is not None


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("teacher.workers=3", ""),
        ("student.validate_every=7", ""),
        ("refine.workers=1", ""),
        ("student.iterations=700", "student"),
        ("refine.min_score=0.6", "labels student"),
        ("teacher.iterations=7", "teacher labels student"),
        ("model.panoptic_head.num_queries=16", "teacher labels student"),
    ],
)
def test_plan__after_a_setting_changed__has_other_folders_from_there_on(override, changed, study, tmp_path):
    before = plan(study, tmp_path, "control")["refined"]
    after = plan(study, tmp_path, "control", override)["refined"]
    differing = [n for n in ("teacher", "labels", "student") if getattr(before, n) != getattr(after, n)]
    assert differing == changed.split()


def test_plan__after_annotations_changed__has_other_folders(study, tmp_path):
    shutil.copytree(study.parent / "data", tmp_path / "data")
    override = f"data.root={tmp_path / 'data'}"
    before = plan(study, tmp_path, "control", override)["refined"]
    path = tmp_path / "data/train.json"
    content = json.loads(path.read_text())
    content["annotations"].pop()
    path.write_text(json.dumps(content))
    assert plan(study, tmp_path, "control", override)["refined"].teacher != before.teacher


def test_plan__config_that_has_a_component_off__is_refused(study, tmp_path):
    with pytest.raises(UserError, match=r"(?s)Rows II and IV .* same experiment.*refine.prompt"):
        plan(study, tmp_path, "components", "refine.prompt=None")


def test_plan__config_without_student__can_compare_teachers_only(study, tmp_path):
    assert plan(study, tmp_path, "sd-target", "student=None")["none"].student is None
    with pytest.raises(UserError, match="no group `student`"):
        plan(study, tmp_path, "components", "student=None")


def test_plan__of_labels__draws_splits_of_the_wanted_size_once(study, tmp_path):
    few = json.loads((study.parent / "data/train.json").read_text())
    names = [f"{number}.png" for number in range(20)]
    images = [{**few["images"][0], "id": number, "file_name": name} for number, name in enumerate(names)]
    annotations = [{**few["annotations"][0], "id": number, "image_id": number} for number in range(20)]
    (tmp_path / "many.json").write_text(json.dumps({**few, "images": images, "annotations": annotations}))
    whole = f"refine.ground_truth={tmp_path / 'many.json'}"

    rows = plan(study, tmp_path, "labels", whole)

    labeled = {name: _names(Path(trial.options.data.labeled)) for name, trial in rows.items()}
    assert {name: len(names) for name, names in labeled.items()} == {"05": 1, "10": 2, "20": 4, "30": 6}
    for name, trial in rows.items():
        unlabeled = _names(Path(trial.options.data.unlabeled or ""))
        assert not unlabeled & labeled[name]
        assert unlabeled | labeled[name] == set(names)
    assert plan(study, tmp_path, "labels", whole)["30"].teacher == rows["30"].teacher


def test_plan__of_labels__too_few_images_for_two_shares_are_refused(study, tmp_path):
    with pytest.raises(UserError, match="Rows 05 and 10 of labels are the same experiment"):
        plan(study, tmp_path, "labels")


def test_plan__of_labels_without_annotations_of_all__says_what_to_give(study, tmp_path):
    with pytest.raises(UserError, match="--train"):
        plan(study, tmp_path, "labels", "refine.ground_truth=None")


def _folders(rows: dict[str, Trial], stage: str) -> set[Path]:
    return {getattr(trial, stage) for trial in rows.values()}


def _names(path: Path) -> set[str]:
    return {image["file_name"] for image in json.loads(path.read_text())["images"]}
