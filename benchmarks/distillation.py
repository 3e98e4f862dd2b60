"""Does structural distillation help? Teachers with and without SD, three seeds each, on the test scenes.

Trains what is not trained yet under work_dirs/ablation (nine runs of two to five minutes on one core),
evaluates every teacher on the embedded data's test scenes and prints the table of the README. Repeat it after
an interruption: finished teachers are kept, an interrupted one goes on.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

CONFIG = Path(__file__).parent.parent / "configs/demo/demo.py"
FOLDER = Path("work_dirs/ablation")
SEEDS = (0, 1, 2)
VARIANTS = {
    "without SD": ("plain", ()),
    "with SD, weight 1 (the paper's)": ("sd", ("sd.enabled=true",)),
    "with SD, weight 10": ("sd10", ("sd.enabled=true", "sd.weight=10")),
}
"""Name in the table: name of its folders, settings."""
FIGURES = {"AP": "AP", "AP50": "AP50", "merged_rate": "merged instances, %"}


def main() -> None:
    """Train, evaluate and print mean and spread (standard deviation) over the seeds."""
    table = Table("teacher", *FIGURES.values(), title=f"Test scenes, {len(SEEDS)} seeds, mean ± spread")
    for name, (folder, settings) in VARIANTS.items():
        found = [
            _evaluate(_train(FOLDER / f"{folder}-{seed}", (*settings, f"teacher.seed={seed}")))
            for seed in SEEDS
        ]
        columns = [[result[figure] for result in found] for figure in FIGURES]
        table.add_row(name, *(f"{statistics.mean(c):.1f} ± {statistics.stdev(c):.1f}" for c in columns))
    Console().print(table)


def _train(folder: Path, settings: Sequence[str]) -> Path:
    weights = folder / "teacher/weights.safetensors"
    if not weights.exists():
        options = [part for setting in settings for part in ("--set", setting)]
        _s4m("pretrain-teacher", str(CONFIG), "--work-dir", str(folder), *options)
    return weights


def _evaluate(weights: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads(
        _s4m("evaluate", str(CONFIG), str(weights), "--split", "test", "--json")
    )
    return found


def _s4m(*arguments: str) -> str:
    command = [sys.executable, "-m", "stages", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
