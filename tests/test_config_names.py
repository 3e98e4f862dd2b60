"""Configs by name, `s4m config`, and `s4m demo`."""

from pathlib import Path

import pytest

from s4m_pipeline.config.experiment import load_experiment
from s4m_pipeline.config.listing import list_settings
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.core.paths import CONFIGS
from s4m_stages import demo as demo_stage
from s4m_stages.config import config
from s4m_stages.demo import demo


def write_own(name: str) -> Path:
    path = Path("experiments") / f"{name}.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        f"_base_ = [{str(CONFIGS.resolve() / 'demo' / 'demo.py')!r}]\nteacher = dict(iterations=7)\n"
    )
    return path


def test_name__of_a_shipped_config_or_of_an_own_one__is_found_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_experiment(Path("demo"), [])[0] == load_experiment(CONFIGS / "demo/demo.py", [])[0]
    write_own("mine")
    assert load_experiment(Path("mine"), [])[0].teacher.iterations == 7


def test_name__that_is_unknown_or_of_two_configs__is_refused_with_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_own("demo")
    with pytest.raises(UserError, match=r"Two configs have the name demo: experiments/demo.py and .*demo.py"):
        load_experiment(Path("demo"), [])
    assert load_experiment(path, [])[0].teacher.iterations == 7
    with pytest.raises(UserError, match=r"no config of this name(.|\n)*one of: demo, .*cityscapes_swin_b"):
        load_experiment(Path("demos"), [])


def test_list_settings__every_value__is_the_experiments_and_says_where_it_comes_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own, shipped = write_own("mine"), CONFIGS.resolve()
    found = {setting.key: setting for setting in list_settings(Path("mine"), ["student.arp.fraction=0.5"])}
    options, content = load_experiment(own, ["student.arp.fraction=0.5"])
    origins = {
        "teacher.iterations": own,
        "teacher.batch_size": shipped / "demo/demo.py",
        "refine.points": shipped / "_base_/refine.py",
        "model.panoptic_head.num_queries": shipped / "_base_/small.py",
        "model.panoptic_head.num_transformer_feat_level": shipped / "_base_/mask2former_r50.py",
        "student.arp.fraction": "--set",
        "student.photometric.blur_p": "default",
    }
    assert {key: found[key].origin for key in origins} == {key: str(file) for key, file in origins.items()}
    for setting in found.values():
        value = (
            content if setting.key.partition(".")[0] in ("model", "optim_wrapper") else options.model_dump()
        )
        if setting.meaning or value is content:
            for name in setting.key.split("."):
                value = value[name]
            assert setting.value == value, setting.key
    assert (found["teacher.seed"].default, found["teacher.iterations"].default) == ("0", None)
    ours = [key for key in found if found[key].meaning]
    assert {key.partition(".")[0] for key in ours} == set(type(options).model_fields)


def test_config__prints_files_below_the_current_folder_by_their_relative_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    config(write_own("mine"))
    said = capsys.readouterr().out
    assert "teacher.iterations = 7  (experiments/mine.py)\n    Optimizer steps in total." in said
    assert "teacher.seed = 0  (default)\n" in said


def test_demo__draws_its_data_once__and_runs_the_shipped_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    called: list[list[str]] = []
    monkeypatch.setattr(demo_stage, "call", called.append)
    demo(overrides=["teacher.seed=1"])
    assert [words[:2] for words in called] == [["data", "demo"], ["data", "split"], ["run", "demo"]]
    assert called[-1][2:] == ["--set", "teacher.seed=1"]
    data = load_experiment(Path("demo"), [])[0].data
    assert data.path(data.labeled) == demo_stage.SPLIT / "labeled.json"
    demo_stage.SPLIT.mkdir(parents=True)
    (demo_stage.SPLIT / "split.json").write_text("{}")
    called.clear()
    demo()
    assert called == [["run", "demo"]]
    called.clear()
    demo(data_only=True)
    assert called == []
