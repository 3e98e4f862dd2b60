"""Options, `--set`, and the one message that names every fault of a config."""

from pathlib import Path
from typing import get_args

import pytest

from s4m_pipeline.config.base import Settings
from s4m_pipeline.config.experiment import Options, load_experiment, parse_options
from s4m_pipeline.core.errors import UserError

MODEL = {"backbone": {}, "panoptic_head": {"loss_cls": {}}, "panoptic_fusion_head": {}}
PARTS = {"model": MODEL, "optim_wrapper": {}, "train_pipeline": [], "test_pipeline": []}
DATA = {"root": "r", "labeled": "a.json", "train_images": "a", "val": "v.json", "val_images": "v"}
TEACHER = {"iterations": 10, "batch_size": 2}


def config(**changes: object) -> dict:
    return {**PARTS, "data": DATA, "teacher": TEACHER, **changes}


def test_parse_options__minimal_config_takes_defaults() -> None:
    options = parse_options(config())
    assert options.teacher.iterations == 10
    assert options.teacher.ema is None
    assert options.data.split("val") == (Path("r/v.json"), Path("r/v"))


def test_parse_options__many_faults_are_all_named_at_once() -> None:
    faulty = config(
        teachr={},
        data={**DATA, "labled": "x", "test": "t.json"},
        teacher={"iterations": "many", "batch_size": 0, "ema": 1.5, "precision": "fp64", "worker": 1},
    )
    with pytest.raises(UserError) as caught:
        parse_options(faulty)
    message = str(caught.value)
    for expected in (
        "8 fault(s)",
        "teachr: unknown key; did you mean teacher?",
        "data.labled: unknown key; did you mean data.labeled?",
        "data.test and data.test_images: give both or neither",
        "teacher.worker: unknown key; did you mean teacher.workers?",
        "teacher.iterations: 'many' given, a whole number expected",
        "teacher.batch_size: 0 given, at least 1 expected",
        "teacher.ema: 1.5 given",
        "teacher.precision: 'fp64' given, one of fp32, bf16, fp16 expected",
    ):
        assert expected in message


def test_parse_options__missing_keys_are_named() -> None:
    with pytest.raises(UserError) as caught:
        parse_options({"model": {"panoptic_head": {}}})
    for missing in (
        "model.backbone",
        "model.panoptic_head.loss_cls",
        "model.panoptic_fusion_head",
        "optim_wrapper",
        "train_pipeline",
        "test_pipeline",
        "data.root",
        "teacher.iterations",
    ):
        assert f"\n  {missing}: missing" in str(caught.value)


@pytest.mark.parametrize(
    ("field", "given", "kept"),
    [
        ("ema", 0, 0.0),
        ("ema", None, None),
        ("iterations", 20.0, 20),
        ("logger", ["mlflow", "wandb"], ("mlflow", "wandb")),
        ("init_from", "a.pth", "a.pth"),
    ],
)
def test_parse_options__convertible_value_is_converted(field: str, given: object, kept: object) -> None:
    value = getattr(parse_options(config(teacher={**TEACHER, field: given})).teacher, field)
    assert value == kept
    assert type(value) is type(kept)


@pytest.mark.parametrize(
    ("field", "given"),
    [("iterations", True), ("iterations", 2.5), ("logger", 1), ("init_from", 3), ("iterations", None)],
)
def test_parse_options__wrong_type_is_refused(field: str, given: object) -> None:
    with pytest.raises(UserError, match=f"teacher.{field}: {given} given"):
        parse_options(config(teacher={**TEACHER, field: given}))


@pytest.mark.parametrize(
    ("key", "given"),
    [
        ("model", "Mask2Former"),
        ("model", {**MODEL, "backbone": "ResNet"}),
        ("train_pipeline", 3),
        ("train_pipeline", {"type": "LoadRGB"}),
        ("param_scheduler", '[dict(type="PolyLR")]'),  # what --set leaves of it
        ("custom_hooks", ["EMAHook"]),
    ],
)
def test_parse_options__part_of_another_shape_is_refused(key: str, given: object) -> None:
    with pytest.raises(UserError, match=rf"{key}.*: .* given, a (list of )?dictionar.* expected"):
        parse_options(config(**{key: given}))


@pytest.mark.parametrize(
    ("group", "values", "message"),
    [
        (
            "refine",
            {"prompt": "pints"},
            "refine.prompt: 'pints' given, one of auto, points, .* or None expected",
        ),
        ("refine", {"ignore_below": 0.2}, "refine.ignore_below: 0.2 given, but accept is 'all'"),
        ("refine", {"nms_iou": 2}, "refine.nms_iou: 2 given, at most 1 or None expected"),
        ("sd", {"weight": 0}, "sd.weight: 0 given, a number above 0 expected"),
        ("sd", {"loss": "feature"}, "sd.loss: 'feature' compares the encoder's features"),
        ("sam", None, "sam: None given, a group of keys expected"),
        ("student", {"burn_in": 6}, r"student.burn_in: 6 given, at most iterations \(5\) expected"),
        ("student", {"refresh_every": 2}, "student.ema: None given"),
        ("student", {"refresh_every": 2, "ema": 0.9, "source": "labeled"}, "student.refresh_every: 2 given"),
        (
            "student",
            {"unlabeled_weight": float("nan")},
            "weight: nan given, a finite number expected",
        ),
        (
            "student",
            {"arp": {"fracton": 1}},
            "arp.fracton: unknown key; did you mean student.arp.fraction",
        ),
        ("student", {"arp": {"scale_range": [2, 1]}}, r"student.arp.scale_range: \(2.0, 1.0\) given"),
        ("student", {"arp": {"scale_range": [1]}}, "student.arp.scale_range.1: missing"),
        (
            "student",
            {"photometric": {"jitter": [0, 0, 0, 1]}},
            "photometric.jitter.3: 1 given, at most 0.5",
        ),
    ],
)
def test_parse_options__faulty_value__is_named_with_what_is_expected(
    group: str, values: dict | None, message: str
) -> None:
    required = {"iterations": 5, "batch_size": 1, "unlabeled_batch_size": 1} if group == "student" else {}
    with pytest.raises(UserError, match=message) as caught:
        parse_options(config(**{group: values and {**required, **values}}))
    assert "The config has 1 fault(s)" in str(caught.value)


def test_options__every_key__is_described() -> None:
    groups = [Options]
    for group in groups:
        for name, field in group.model_fields.items():
            assert field.description, f"{group.__name__}.{name}"
            kinds = (field.annotation, *get_args(field.annotation))
            groups += [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Settings)]
    assert len(groups) == 11


def test_split__not_in_config_is_refused_with_remedy() -> None:
    with pytest.raises(UserError, match=r"Set data\.test and data\.test_images"):
        parse_options(config()).data.split("test")


def test_load_experiment__overrides_reach_options_and_model(tiny_config: Path) -> None:
    options, config = load_experiment(
        tiny_config,
        [
            "teacher.iterations=3",
            "teacher.logger=['tensorboard']",
            "teacher.ema=none",
            "data.root=/elsewhere",
            "model.backbone.depth=34",
            "model.panoptic_head.in_channels=[1, 2]",
            "train_pipeline.2.prob=0.25",
        ],
    )
    assert options.teacher.logger == ("tensorboard",)
    assert (options.teacher.iterations, options.teacher.ema) == (3, None)
    assert options.data.root == "/elsewhere"
    assert config["model"]["backbone"]["depth"] == 34
    assert config["model"]["panoptic_head"]["in_channels"] == [1, 2]
    assert config["train_pipeline"][2]["prob"] == 0.25
    assert not [name for name in config if name.startswith("_")]


def test_load_experiment__faulty_overrides_are_all_named_at_once(tiny_config: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_experiment(
            tiny_config,
            [
                "iterations",
                "model.backbon.depth=3",
                "model.backbone.dept=3",
                "train_pipeline.9.prob=1",
                "teacher.iteration=3",
                "model.backbone.depth.x=3",
            ],
        )
    message = str(caught.value)
    for expected in (
        "--set iterations: expected KEY=VALUE",
        "no model.backbon in the config; did you mean backbone?",
        "--set model.backbone.dept: unknown key; did you mean depth?",
        "no train_pipeline.9",
        "teacher.iteration: unknown key; did you mean teacher.iterations?",
        "model.backbone.depth holds a value, not keys",
    ):
        assert expected in message


@pytest.mark.parametrize("value", ["{[]: 1}", "{" * 3000, "0x", "a b"])
def test_load_experiment__override_that_is_no_literal__is_text(tiny_config: Path, value: str) -> None:
    options, _ = load_experiment(tiny_config, [f"data.root={value}"])
    assert options.data.root == value


def test_load_experiment__file_missing_or_broken_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No config file at"):
        load_experiment(tmp_path / "none.py", [])
    broken = tmp_path / "broken.py"
    broken.write_text("model = dict(\n")
    with pytest.raises(UserError, match="cannot be read as a config"):
        load_experiment(broken, [])
