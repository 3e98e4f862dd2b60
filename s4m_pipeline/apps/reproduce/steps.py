"""The chain from raw files to results, as commands of `s4m`; finished steps are skipped."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from safetensors import safe_open

from s4m_cache.fingerprint import file_hash, file_sha256
from s4m_pipeline.config.methods import MethodName
from s4m_pipeline.config.published import Benchmark
from s4m_pipeline.config.weight_files import find_weights
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.data.split_files import LABELED, RECORD, UNLABELED
from s4m_pipeline.experiment.evaluation_file import current_results


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
    """The miniature, the demo's network and a few iterations instead of the paper's."""
    weights: Mapping[str, Path]
    """Of teacher and student, to be made."""
    method: MethodName | None = None
    """Whose recipe the student is trained with; None: the paper's."""
    overrides: Sequence[str] = ()
    """Settings that the recipe and the caller change, as `key=value`."""
    overwrite: bool = False
    """Delete trainings whose settings or data changed."""
    split_list: Path | None = None
    """List of the labeled images, as the authors publish them; None: drawn by the images' names."""
    released: Mapping[str, str] | None = None
    """Published networks by stage, as `find_weights` takes them; stages without are trained, if any is."""
    trains: bool = True
    """Whether anything is trained."""

    @property
    def config(self) -> Path:
        """The experiment's config."""
        return self.benchmark.config(smoke=self.smoke)

    @property
    def split(self) -> Path:
        """Folder of the split."""
        return self.root / self._split

    @property
    def _split(self) -> str:
        """Relative to the root."""
        folder = self.benchmark.split_folder(self.percent)
        return folder if self.split_list is None else f"{folder}_{self.split_list.stem}"

    def settings(self) -> list[str]:
        """What is changed in the config, as arguments of `s4m`."""
        split = self._split
        changed: Mapping[str, object] = {
            "data.root": self.root.absolute(),
            "data.labeled": f"{split}/{LABELED}",
            "data.unlabeled": f"{split}/{UNLABELED}",
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
    if run.trains and not _is_split(run):
        yield Step(f"labeling {run.percent} % of the images", _split(run))
    for stage, source in (run.released or {}).items():
        if not _holds(run.weights[stage], source):
            words = ["export", "weights", str(run.config), source, str(run.weights[stage])]
            yield Step(f"the published {stage}, {source}", words)


def _is_split(run: Reproduction) -> bool:
    """Whether the split is there.

    Raises:
        UserError: if it was made from a list that was different.
    """
    record = run.split / RECORD
    if not record.is_file() or run.split_list is None:
        return record.is_file()
    if json.loads(record.read_text())["method"].get("sha256") != file_sha256(run.split_list):
        raise UserError(
            f"{run.split} was made from a different list than {run.split_list} is now.\n"
            "Delete that folder, or give the list another name."
        )
    return True


def _holds(weights: Path, source: str) -> bool:
    """Whether a file was exported from published weights; False if there is none.

    Raises:
        UserError: if it holds others.
    """
    if not weights.is_file():
        return False
    with safe_open(weights, framework="np") as file:
        made_from = (file.metadata() or {}).get("source_hash")
    if made_from != file_hash(find_weights(source).path):
        raise UserError(f"{weights} does not come from {source}.\nGive another --work-dir, or delete it.")
    return True


def experiment(run: Reproduction) -> Iterator[Step]:
    """All stages; in between, for Cityscapes, the benchmark's own evaluator unless its results are there."""
    if run.benchmark.name == "cityscapes":
        if run.trains:
            yield Step("teacher, pseudo-labels, student", [*_stages(run), *_first(run), "--until", "student"])
        results = current_results(run.work_dir, "val")
        for stage, path in run.weights.items():
            if (run.trains or path.is_file()) and run.benchmark.name not in results.get(stage, {}):
                scored = ["evaluate", str(run.config), str(path), "--benchmark", "cityscapes"]
                yield Step(f"Cityscapes' own evaluator on {path}", [*scored, *run.settings()])
        if run.trains:
            yield Step("report", [*_stages(run), "--from", "evaluate"])
    elif not run.trains:
        scored = [str(path) for path in run.weights.values() if path.is_file()]
        yield Step("evaluation", ["evaluate", str(run.config), *scored, *run.settings()])
    else:
        yield Step("teacher, pseudo-labels, student, evaluation, report", [*_stages(run), *_first(run)])


def _stages(run: Reproduction) -> list[str]:
    devices, folder = str(run.devices), str(run.work_dir)
    command = ["run", str(run.config), "--devices", devices, "--work-dir", folder, *run.settings()]
    return [*command, "--overwrite"] if run.overwrite else command


def _first(run: Reproduction) -> list[str]:
    """The stage to begin with, if a published teacher stands in for ours."""
    return ["--from", "refine"] if run.released else []


def _split(run: Reproduction) -> list[str]:
    benchmark, root = run.benchmark, run.root
    options = {
        "--images": root / benchmark.train_images,
        "--val": root / benchmark.val_json,
        "--val-images": root / benchmark.val_images,
        **({"--percent": run.percent} if run.split_list is None else {"--list": run.split_list}),
        "--out": run.split,
    }
    words = [str(word) for pair in options.items() for word in pair]
    return ["data", "split", str(root / benchmark.train_json), *words]


def _miniature_is_drawn(benchmark: Benchmark, root: Path) -> bool:
    from s4m_pipeline.data.miniature import cityscapes, coco

    drawing = cityscapes if benchmark.name == "cityscapes" else coco
    return drawing.last_file(root).is_file()
