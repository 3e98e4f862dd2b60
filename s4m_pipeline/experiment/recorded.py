"""What the trainings of an experiment have recorded of its data."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from s4m_pipeline.config.base import describe_faults
from s4m_pipeline.config.groups import DataOptions
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.core.paths import STUDENT, TEACHER
from s4m_pipeline.experiment.run_record import read_run

Runs = Mapping[str, Mapping[str, Any]]


def read_runs(folder: Path) -> Runs:
    """run.json of each training of an experiment that has begun, by `teacher`, `student`.

    Raises:
        UserError: if one is damaged.
    """
    found = {name: read_run(folder / name) for name in (TEACHER, STUDENT)}
    return {name: run for name, run in found.items() if run is not None}


def latest_settings(runs: Runs) -> Mapping[str, Any]:
    """The config of the training that was started last; empty before the first."""
    started = {name: [session.get("started") for session in run["sessions"]] for name, run in runs.items()}
    latest = max(runs, key=lambda name: started[name][-1:], default=None)
    return {} if latest is None else runs[latest].get("config", {})


def recorded_data(runs: Runs) -> DataOptions:
    """The data of the training that was started last.

    Raises:
        UserError: if there is none, or it was recorded by a different version.
    """
    if not runs:
        raise UserError("no training has recorded the paths of the images")
    try:
        return DataOptions.model_validate(latest_settings(runs).get("data", {}))
    except ValidationError as error:
        faults = "; ".join(describe_faults(error, DataOptions, "data."))
        raise UserError(f"the recorded settings are of a different version ({faults})") from error


def experiment_data(folder: Path) -> DataOptions:
    """The data of an experiment, as its folder has recorded them.

    Raises:
        UserError: if the folder is not that of an experiment; and as `recorded_data`.
    """
    if not (runs := read_runs(folder)):
        raise UserError(
            f"{folder}: no experiment found (no {TEACHER}/run.json).\n"
            "Expected the folder of an experiment, such as work_dirs/demo."
        )
    return recorded_data(runs)
