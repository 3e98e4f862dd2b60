"""What rows share, and what sets them apart."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from s4m_pipeline.apps.ablation.experiments import Trial, plan_trials
from s4m_pipeline.apps.ablation.results import mean_of_seeds
from s4m_pipeline.apps.ablation.tables import TABLES, TableName
from s4m_pipeline.core.errors import UserError


def plan(study: Path, root: Path, name: TableName, *overrides: str, seed: int = 0) -> dict[str, Trial]:
    """The trials of a table with one seed, by row."""
    table = TABLES[name]
    trials = plan_trials(study, overrides, root, table.network, table.rows, seed + 1)
    return {trial.row.name: trial for trial in trials if trial.seed == seed}


@pytest.mark.parametrize("name", [name for name in TABLES if name != "labels"])
def test_plan__of_every_table__needs_one_result_for_each_row_and_seed(name, study, tmp_path):
    trials = [*plan(study, tmp_path, name).values(), *plan(study, tmp_path, name, seed=1).values()]
    assert (
        len({trial.folders[TABLES[name].network] for trial in trials})
        == len(trials)
        == 2 * len(TABLES[name].rows)
    )


def test_plan__of_components__shares_teachers(study, tmp_path):
    rows = plan(study, tmp_path, "components")
    folders = {trial.folders["teacher"] for trial in rows.values()}
    sharing = [[name for name in rows if rows[name].folders["teacher"] == folder] for folder in folders]
    assert sorted(sharing) == [["I", "III"], ["II", "IV", "V", "VI"]]


def test_plan__of_sd_stage__distilled_students_begin_with_the_others_teachers_and_labels(study, tmp_path):
    rows = plan(study, tmp_path, "sd-stage")
    for one, other in (("none", "student"), ("teacher", "both")):
        assert rows[one].folders["teacher"] == rows[other].folders["teacher"]


def test_plan__same_experiment_in_several_tables__is_one_folder(study, tmp_path):
    components = plan(study, tmp_path, "components", "refine.prompt=points")
    control = plan(study, tmp_path, "control", "sd.enabled=False")
    assert components["III"].folders == control["raw"].folders
    prompts = plan(study, tmp_path, "prompts", "sd.enabled=True")
    assert components["VI"].folders == prompts["points"].folders


def test_plan__cache_elsewhere__is_a_folder_for_each_student(study, tmp_path):
    settings = ("cache.embeddings=False", "cache.root=s3://bucket/caches/")
    rows = plan(study, tmp_path, "components", *settings)
    for trial in rows.values():
        assert trial.arguments[-1] == f"cache.root=s3://bucket/caches/{trial.folders['student'].name}"
    assert len({trial.arguments[-1] for trial in rows.values()}) == len(rows)


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("teacher.workers=3", ""),
        ("student.validate_every=7", ""),
        ("refine.workers=1", ""),
        ("student.iterations=700", "student"),
        ("refine.min_score=0.6", "student"),
        ("teacher.iterations=7", "teacher student"),
        ("model.panoptic_head.num_queries=16", "teacher student"),
    ],
)
def test_plan__after_a_setting_changed__has_other_folders_from_there_on(override, changed, study, tmp_path):
    before = plan(study, tmp_path, "control")["refined"]
    after = plan(study, tmp_path, "control", override)["refined"]
    differing = [name for name in before.folders if before.folders[name] != after.folders[name]]
    assert differing == changed.split()


def test_plan__after_annotations_changed__has_other_folders(study, tmp_path):
    shutil.copytree(study.parent / "data", tmp_path / "data")
    override = f"data.root={tmp_path / 'data'}"
    before = plan(study, tmp_path, "control", override)["refined"]
    path = tmp_path / "data/train.json"
    content = json.loads(path.read_text())
    content["annotations"].pop()
    path.write_text(json.dumps(content))
    after = plan(study, tmp_path, "control", override)["refined"]
    assert not set(after.folders.values()) & set(before.folders.values())


def test_plan__config_that_has_a_component_off__is_refused(study, tmp_path):
    with pytest.raises(UserError, match=r"(?s)Rows II and IV are the same experiment.*refine.prompt"):
        plan(study, tmp_path, "components", "refine.prompt=None")


def test_plan__config_without_student__can_compare_teachers_only(study, tmp_path):
    assert list(plan(study, tmp_path, "sd-target", "student=None")["none"].folders) == ["teacher"]
    with pytest.raises(UserError, match="no group `student`"):
        plan(study, tmp_path, "components", "student=None")


def test_plan__of_labels__takes_the_split_of_each_percentage(study, tmp_path):
    shutil.copytree(study.parent / "data", tmp_path / "data")
    here = f"data.root={tmp_path / 'data'}"
    whole = json.loads((tmp_path / "data/train.json").read_text())
    for count, row in enumerate(TABLES["labels"].rows, start=1):
        split = tmp_path / "data/splits" / row.name
        split.mkdir(parents=True)
        for name in ("labeled", "unlabeled"):
            few = {**whole, "annotations": whole["annotations"][:count]}
            (split / f"{name}.json").write_text(json.dumps(few))
    rows = plan(study, tmp_path, "labels", here)
    assert list(rows) == ["05", "10", "20", "30"]
    assert len({trial.folders["teacher"] for trial in rows.values()}) == 4


def test_plan__of_suggest__takes_the_splits_of_each_seed(study, tmp_path):
    first, second = plan(study, tmp_path, "suggest"), plan(study, tmp_path, "suggest", seed=1)
    assert "data.labeled=more/0/suggested/labeled.json" in first["suggested"].arguments
    assert "data.unlabeled=more/1/random/unlabeled.json" in second["random"].arguments


def test_mean_of_seeds__interval_is_that_of_seeds_drawn_with_replacement():
    """Of three seeds without any spread of images: the mean, then means of three draws from their scores."""
    scores = np.repeat([[0.0], [3.0], [9.0]], 20_000, axis=1)
    mean, draws = np.split(mean_of_seeds(scores), [1])
    assert mean == 4.0
    assert set(np.unique(draws)) == {0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 9.0}
    assert abs(draws.mean() - 4) < 0.1 and abs(draws.var() - 14 / 3) < 0.2
    assert np.array_equal(mean_of_seeds(scores[:1]), scores[0])
