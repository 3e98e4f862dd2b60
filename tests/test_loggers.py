"""The setting `logger`: TensorBoard and MLflow hold the metrics of metrics.jsonl."""

import json
from pathlib import Path
from typing import Any

import pytest

from s4m_pipeline.core.errors import UserError
from s4m_pipeline.train import runner
from s4m_stages.pretrain_teacher import pretrain_teacher


def trained(config: Path, folder: Path, *loggers: str) -> dict[int, dict[str, Any]]:
    """Train with loggers; the validations of metrics.jsonl by iteration."""
    pretrain_teacher(config, [f"teacher.logger={json.dumps(loggers)}"], folder)
    lines = (folder / "teacher/metrics.jsonl").read_text().splitlines()
    return {record["step"]: record for record in map(json.loads, lines) if "val_AP" in record}


def test_logger__tensorboard_reads_the_metrics(tiny_config: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    expected = trained(tiny_config, tmp_path, "tensorboard")
    events = EventAccumulator(str(tmp_path / "teacher/log/vis_data")).Reload()
    found = {event.step: event.value for event in events.Scalars("val/AP")}
    assert found == pytest.approx({step: record["val_AP"] for step, record in expected.items()}, rel=1e-6)
    assert [event.step for event in events.Scalars("train/loss")] == [2, 4, 6]


def test_logger__mlflow_has_one_finished_run_per_training(
    tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setattr(runner, "_MLFLOW_SERVER", None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # restored afterwards: MLflow sets it
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    for name in ("first", "second"):  # in one process
        expected = trained(tiny_config, tmp_path / name, "mlflow")
        client = mlflow.MlflowClient(f"file://{tmp_path / name}/teacher/log/vis_data")
        (experiment,) = client.search_experiments()
        (run,) = client.search_runs([experiment.experiment_id])
        assert run.info.status == "FINISHED"
        found = {metric.step: metric.value for metric in client.get_metric_history(run.info.run_id, "val/AP")}
        assert found == pytest.approx({step: record["val_AP"] for step, record in expected.items()})
        assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["config.py", "run.json"]


def test_logger__that_is_not_installed_is_named_with_the_command(
    tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "find_spec", lambda name: None if name == "wandb" else name)
    with pytest.raises(UserError, match=r"names wandb(.|\n)*pip install wandb"):
        trained(tiny_config, tmp_path, "mlflow", "wandb")
