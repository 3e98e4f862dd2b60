"""Published weights in the commands that take a checkpoint: as good as their source, recorded, or refused."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save
from torch import Tensor
from typer.testing import CliRunner

from s4m_cache.generation import Generation
from s4m_pipeline.config.experiment import load_experiment
from s4m_pipeline.config.weight_files import HUGGING_FACE, SMALL, find_weights
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.experiment.changes import changes
from s4m_pipeline.models.checkpoint import read_weights, write_weights
from s4m_pipeline.models.fitting import initialize
from s4m_pipeline.models.load import build_network
from s4m_stages import evaluate
from s4m_stages.cli import build_app
from tests.conftest import CLASSES, CreatesFile, TinyCoco
from tests.published import WeightsServer, as_detectron2, as_huggingface, pth

R50 = "mask2former_r50_8xb2-lsj-50e_coco"
MMDET, HUB = f"mmdet://{R50}", HUGGING_FACE[0]
ONE_ITERATION = "--set student.burn_in=0 " + " ".join(
    f"--set {stage}.{setting}"
    for stage in ("teacher", "student")
    for setting in ("iterations=1", "validate_every=1", "batch_size=2")
)
COMMANDS = {
    "evaluate": "evaluate {config} {weights}",
    "predict": "predict {config} {weights} {data}/test --out {out}/predictions --min-score 0",
    "refine": "refine {config} --teacher {weights} --work-dir {out} --set data.unlabeled=test "
    "--set refine.min_score=0.3",
    "export": "export weights {config} {weights} {out}/exported.safetensors",
    "teacher": f"pretrain-teacher {{config}} {ONE_ITERATION} --work-dir {{out}} "
    "--set teacher.init_from={weights}",
    "control": f"train-student {{config}} --control {ONE_ITERATION} --work-dir {{out}} "
    "--set student.init_from={weights}",
}


@pytest.fixture(scope="module")
def source(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped weights with a random class layer: a network that finds objects of the tiny data set."""
    _, config = load_experiment(tiny_config, [])
    torch.manual_seed(0)
    network = build_network(config, len(CLASSES))
    initialize(network, read_weights(SMALL), CLASSES)
    path = tmp_path_factory.mktemp("source") / "weights.safetensors"
    write_weights(path, network.state_dict(), CLASSES)
    return path


class Run:
    """Runs `COMMANDS` with given weights on the tiny data set, as the command line does."""

    def __init__(self, config: Path, data: Path, out: Path) -> None:
        self.places = {"config": config, "data": data, "out": out}

    def __call__(self, command: str, weights: object, *more: str) -> str:
        words = COMMANDS[command].format(**self.places, weights=weights).split()
        result = CliRunner().invoke(build_app(), [*words, *more])
        if result.exception is not None:
            raise result.exception
        return result.output


@pytest.fixture
def run(tiny_config: Path, tiny_coco: TinyCoco, tmp_path: Path) -> Run:
    return Run(tiny_config, tiny_coco.root, tmp_path / "out")


def publish(server: WeightsServer, source: Path, classes: tuple[str, ...] = CLASSES) -> dict[str, Tensor]:
    """Offer a network as mmdet and the hub do; returns its tensors."""
    tensors = load_file(source)
    server.publish(R50, pth({"state_dict": tensors, "meta": {"CLASSES": classes, "epoch": 50}}))
    config = {"id2label": {str(row): name for row, name in enumerate(classes)}}
    files = {"model.safetensors": save(as_huggingface(tensors)), "config.json": json.dumps(config).encode()}
    server.publish_on_hub(HUB, files)
    return tensors


def test_evaluate__converted_from_each_source__gives_the_predictions_and_figures_of_the_source(
    source: Path, run: Run, weights_server: WeightsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = as_detectron2(publish(weights_server, source))
    both = {f"modelStudent.{name}": value for name, value in theirs.items()}
    both |= {f"modelTeacher.{name}": torch.zeros_like(value) for name, value in theirs.items()}
    torch.save({"model": both, "trainer": {}, "iteration": 3}, tmp_path / "released.pth")
    arrays = {name: value.numpy() for name, value in theirs.items()}
    (tmp_path / "model.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "somebody"}))
    predicted: list[Any] = []
    real = evaluate._predict
    monkeypatch.setattr(evaluate, "_predict", lambda *given: predicted.append(real(*given)) or predicted[-1])
    converted = [MMDET, HUB, f"{tmp_path}/released.pth#student", f"{tmp_path}/model.pkl"]
    of_source, *of_converted = json.loads(run("evaluate", source, *converted, "--json"))
    assert of_source["AP"] > 10
    assert of_converted == [of_source] * len(converted)
    assert predicted[1:] == [predicted[0]] * len(converted)


@pytest.mark.parametrize("name", [MMDET, HUB])
def test_predict_and_export__published_weights__give_what_their_source_gives(
    source: Path, run: Run, weights_server: WeightsServer, tmp_path: Path, name: str
) -> None:
    publish(weights_server, source)
    found = []
    for weights in (source, name):
        run("predict", weights)
        (tmp_path / "out/predictions").rename(tmp_path / f"predictions_{len(found)}")
        found.append((tmp_path / f"predictions_{len(found)}/predictions.json").read_bytes())
    assert found[0] == found[1] and len(json.loads(found[0])) > 10
    run("export", name)
    exported = read_weights(tmp_path / "out/exported.safetensors")
    assert exported.classes == CLASSES
    assert exported.tensors.keys() == load_file(source).keys()
    assert all(torch.equal(exported.tensors[key], value) for key, value in load_file(source).items())


def test_refine__published_teacher__is_part_of_the_fingerprint(
    source: Path, run: Run, weights_server: WeightsServer, tmp_path: Path
) -> None:
    publish(weights_server, source)
    run("refine", MMDET)
    fingerprint = Generation(tmp_path / "out/cache", 1).spec.fingerprint
    assert fingerprint["teacher"] == find_weights(MMDET).digest()
    assert str(fingerprint["teacher"]).endswith(f"({MMDET})")


@pytest.mark.parametrize("stage", ["teacher", "control"])
def test_training__from_a_published_network_of_other_classes__takes_shared_ones_and_records_it(
    source: Path, run: Run, weights_server: WeightsServer, tmp_path: Path, stage: str
) -> None:
    publish(weights_server, source, ("dark", "person"))
    with pytest.raises(UserError, match=rf"{MMDET} was trained for different classes(.|\n)*as init_from"):
        run("evaluate", MMDET)
    said = " ".join(run(stage, MMDET).split())
    assert f"initialized from {MMDET}; its class layer for dark and no object; 1 classes start" in said
    record = json.loads((tmp_path / "out" / stage / "run.json").read_text())
    digest = find_weights(MMDET).digest()
    assert record["sessions"][0]["initial_weights"] == digest
    assert changes(record, record["config"], {**record["data"], "initial weights": digest}) == []


def test_training__from_another_architecture__names_what_fits_and_takes_it_with_allow_partial(
    source: Path, run: Run, tmp_path: Path
) -> None:
    backbone = {name: value for name, value in load_file(source).items() if name.startswith("backbone.")}
    mask_rcnn = {**backbone, "roi_head.mask_head.conv_logits.bias": torch.zeros(80)}
    (tmp_path / "mask_rcnn.pth").write_bytes(pth({"state_dict": mask_rcnn, "meta": {"CLASSES": ("person",)}}))
    fits = f"backbone {len(backbone)} of {len(backbone)}, panoptic_head 0 of"
    with pytest.raises(UserError, match=rf"{fits}(.|\n)*roi_head.*not in the model(.|\n)*--allow-partial"):
        run("teacher", tmp_path / "mask_rcnn.pth")
    said = run("teacher", tmp_path / "mask_rcnn.pth", "--allow-partial")
    assert f"{len(backbone)} of " in said


@pytest.mark.parametrize("command", COMMANDS)
def test_command__hostile_pickle__is_refused_with_the_safe_way_and_not_run(
    command: str, run: Run, weights_server: WeightsServer, tmp_path: Path
) -> None:
    hostile = CreatesFile(tmp_path / "ran")
    weights_server.publish(R50, pth({"state_dict": {"a": hostile}}))
    (tmp_path / "model.pkl").write_bytes(pickle.dumps({"model": {"a": hostile}}))
    (tmp_path / "both.pth").write_bytes(pth({"model": {"modelStudent.a": hostile}}))
    for weights in (MMDET, tmp_path / "model.pkl", f"{tmp_path}/both.pth#student"):
        with pytest.raises(UserError, match=r"would run its code(.|\n)*Convert it to .safetensors"):
            run(command, weights)
    assert not (tmp_path / "ran").exists()
