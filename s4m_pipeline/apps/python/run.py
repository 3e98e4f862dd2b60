"""`s4m run` as a function."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from s4m_pipeline.config.experiment import load_experiment
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.core.paths import experiment_folder
from s4m_pipeline.core.processes import Launcher


def run(
    config: str | Path,
    *,
    until: Literal["teacher", "refine", "student", "evaluate", "report"] = "report",
    overrides: Sequence[str] = (),
    work_dir: str | Path | None = None,
    devices: int = 1,
    control: bool = False,
    overwrite: bool = False,
) -> Path:
    """Do the stages of an experiment that are not finished, as `s4m run` does: each in a process of its own.

    A notebook then neither trains nor holds a GPU itself; an interrupted call is resumed by repeating it.

    Args:
        config: file of the config, or its name.
        until: the last stage.
        overrides: texts `a.b=c` on top of the config.
        work_dir: folder of the experiment; None: `work_dirs/<config name>`.
        devices: processes to train in, one for each GPU.
        control: also train without unlabeled images, to compare the student with.
        overwrite: delete trainings whose settings or data changed, and train again.

    Returns:
        The experiment's folder.

    Raises:
        UserError: on faults of the config, or if a stage fails, which has printed why.
    """
    load_experiment(Path(config), overrides)  # its faults as an exception with their text
    folder = experiment_folder(Path(config), Path(work_dir) if work_dir is not None else None)
    words = ["run", str(config), "--until", until, "--work-dir", str(folder), "--devices", str(devices)]
    words += [word for setting in overrides for word in ("--set", setting)]
    words += ["--control"] * control + ["--overwrite"] * overwrite
    with Launcher() as launcher:  # passes an interrupt on, so that the stage saves
        code = launcher.run(words)
    if code:
        raise UserError(f"`s4m {' '.join(words)}` ended with exit code {code}; its message is printed above.")
    return folder
