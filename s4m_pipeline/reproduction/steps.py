"""The chain from raw files to results, as commands of `s4m`; what is there already is not made again."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from s4m_pipeline.data.split_files import LABELED, RECORD, UNLABELED
from s4m_pipeline.evaluation.results import kept_result
from s4m_pipeline.reproduction.benchmarks import Benchmark


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """One run of one experiment of the paper."""

    benchmark: Benchmark
    percent: int
    root: Path
    """Of the data set."""
    work_dir: Path
    """Of the experiment's results."""
    devices: int
    seed: int
    smoke: bool
    """The miniature, the demo's network and a handful of steps instead of the paper's."""
    weights: Mapping[str, Path]
    """Of teacher and student, to be made."""
    overrides: Sequence[str] = ()
    """Settings that the caller changes, as `key=value`."""

    @property
    def config(self) -> Path:
        """The experiment's config."""
        return self.benchmark.config(self.percent, smoke=self.smoke)

    @property
    def split(self) -> Path:
        """Folder of the split."""
        return self.root / self.benchmark.split_folder(self.percent)

    def settings(self) -> list[str]:
        """What is changed in the config, as arguments of `s4m`."""
        changed: Mapping[str, object] = {
            "data.root": self.root.absolute(),
            "data.labeled": f"{self.benchmark.split_folder(self.percent)}/{LABELED}",
            "data.unlabeled": f"{self.benchmark.split_folder(self.percent)}/{UNLABELED}",
            "teacher.seed": self.seed,
            "refine.seed": self.seed,
            "student.seed": self.seed,
        }
        texts = [*(f"{key}={value}" for key, value in changed.items()), *self.overrides]
        return [word for text in texts for word in ("--set", text)]


class Step(NamedTuple):
    """A command of `s4m`."""

    what: str
    arguments: list[str]


def preparation(run: Reproduction) -> Iterator[Step]:
    """Miniature, conversion and split, each looked for when its turn comes."""
    benchmark, root = run.benchmark, run.root
    if run.smoke and not _miniature_is_drawn(benchmark, root):
        yield Step("drawing the miniature", ["data", "miniature", benchmark.name, str(root), "--force"])
    annotations = [root / benchmark.train_json, root / benchmark.val_json]
    if benchmark.name == "cityscapes" and not all(path.is_file() for path in annotations):
        yield Step("converting the annotations", ["data", "convert", "cityscapes", str(root), "--force"])
    if not (run.split / RECORD).is_file():
        yield Step(f"labelling {run.percent} % of the images", _split(run))


def experiment(run: Reproduction) -> Iterator[Step]:
    """All stages; in between, for Cityscapes, the benchmark's own evaluator unless it has spoken."""
    if run.benchmark.name == "cityscapes":
        yield Step("teacher, pseudo-labels, student", [*_stages(run), "--until", "student"])
        for stage, path in run.weights.items():
            if run.benchmark.name not in (kept_result(run.work_dir, "val", stage, path) or {}):
                scored = ["evaluate", str(run.config), str(path), "--benchmark", "cityscapes"]
                yield Step(f"Cityscapes' own evaluator on {path}", [*scored, *run.settings()])
        yield Step("report", [*_stages(run), "--from", "evaluate"])
    else:
        yield Step("teacher, pseudo-labels, student, evaluation, report", _stages(run))


def _stages(run: Reproduction) -> list[str]:
    devices, folder = str(run.devices), str(run.work_dir)
    return ["run", str(run.config), "--devices", devices, "--work-dir", folder, *run.settings()]


def _split(run: Reproduction) -> list[str]:
    benchmark, root = run.benchmark, run.root
    options = {
        "--images": root / benchmark.train_images,
        "--val": root / benchmark.val_json,
        "--val-images": root / benchmark.val_images,
        "--percent": run.percent,
        "--out": run.split,
    }
    words = [str(word) for pair in options.items() for word in pair]
    return ["data", "split", str(root / benchmark.train_json), *words]


def _miniature_is_drawn(benchmark: Benchmark, root: Path) -> bool:
    from s4m_pipeline.data.miniature import cityscapes, coco

    drawing = cityscapes if benchmark.name == "cityscapes" else coco
    return drawing.last_file(root).is_file()
