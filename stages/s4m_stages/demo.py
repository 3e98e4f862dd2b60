"""`s4m demo`: the demo's data set, and all stages on it, in the current folder."""

import os
from pathlib import Path
from typing import Annotated

import typer

from s4m_pipeline.core.processes import call
from s4m_stages.arguments import Overrides

DATA = Path("data/demo")
SPLIT = DATA / "split"


def demo(
    data_only: Annotated[bool, typer.Option("--data-only", help="Only write the data set.")] = False,
    overrides: Overrides = None,
) -> None:
    """Draw 600 scenes into data/demo, label 24 for training, and run all stages with shipped small models.

    It takes minutes and no GPU. Finished stages are skipped: repeat the command to resume it.
    """
    from s4m_pipeline.data.split_files import RECORD

    os.environ.setdefault("OMP_NUM_THREADS", "2")  # the small models gain nothing from more threads
    if not (SPLIT / RECORD).is_file():
        call(["data", "demo", str(DATA), "--force"])
        train, val = str(DATA / "train.json"), str(DATA / "val.json")
        call(["data", "split", train, "--percent", "6", "--out", str(SPLIT), "--val", val, "--force"])
    if not data_only:
        call(["run", "demo", *(word for setting in overrides or [] for word in ("--set", setting))])
