"""From rows and seeds to folders: what has the same settings and data has the same folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache.fingerprint import file_hash, settings_hash
from s4m_pipeline.ablation.tables import Row, Table
from s4m_pipeline.data.coco import load_coco
from s4m_pipeline.data.split_files import LABELED, RECORD, UNLABELED, write_split
from s4m_pipeline.data.splits import split_percent
from s4m_pipeline.errors import UserError
from s4m_pipeline.options.experiment import FREE_TO_CHANGE, Options, load_experiment, settings_of

TEACHERS, LABELS, STUDENTS, SPLITS = "teachers", "labels", "students", "splits"


@dataclass(frozen=True)
class Trial:
    """One row with one seed, and the folders of its three stages, which other trials may share."""

    row: Row
    seed: int
    link: Path
    """`TABLE/ROW-SEED`, which points to the folder that holds the result."""
    overrides: tuple[str, ...]
    """All that is changed in the config."""
    options: Options
    teacher: Path
    labels: Path | None
    """None where no pseudo-labels are needed."""
    student: Path | None
    """None where teachers are compared."""

    @property
    def result(self) -> Path:
        """Folder of the experiment that is compared."""
        return self.student or self.teacher

    @property
    def split(self) -> str:
        """What is evaluated on."""
        return "val" if self.options.data.test is None else "test"


@dataclass(frozen=True)
class Setting:
    """What all tables of an ablation have in common."""

    config: Path
    root: Path
    """Folder of the ablation."""
    overrides: tuple[str, ...] = ()
    train: str | None = None
    """COCO JSON with annotations of all training images, from which shares of labels are drawn; None:
    `refine.ground_truth`."""


def plan_trials(
    setting: Setting, name: str, table: Table, rows: Sequence[Row], seeds: Sequence[int]
) -> list[Trial]:
    """Every row with every seed, the first seed first.

    Splits of the labelled images are written if need be; else nothing is.

    Raises:
        UserError: if the config does not allow a row, or makes two rows the same.
        CacheError: if a file of the data set cannot be read.
    """
    unchanged, _ = load_experiment(setting.config, setting.overrides)
    if table.network == "student" and unchanged.student is None:
        raise UserError(f"{setting.config} has no group `student`, which the table {name} compares.")
    trials = []
    for seed in seeds:
        seen: dict[Path, Row] = {}
        for row in rows:
            share = _labelled_share(setting, unchanged, row.labeled_percent, seed)
            trial = _trial(setting, name, table, row, seed, share)
            if twin := seen.get(trial.result):
                raise UserError(
                    f"Rows {twin.name} and {row.name} of {name} are the same experiment with this config.\n"
                    f"What they differ in must be on in {setting.config}: see refine.prompt and student.arp. "
                    "Shares of the labels differ only with images enough."
                )
            seen[trial.result] = row
            trials.append(trial)
    return trials


def _trial(setting: Setting, name: str, table: Table, row: Row, seed: int, share: Sequence[str]) -> Trial:
    overrides = [*setting.overrides, *row.settings, *share, f"teacher.seed={seed}", f"refine.seed={seed}"]
    if table.network == "student":
        overrides.append(f"student.seed={seed}")
    options, parts = load_experiment(setting.config, overrides)
    contents = _contents(options)
    teacher = _folder(setting.root / TEACHERS, options, parts, contents, "data", "teacher", "sam", "sd")
    labels = student = None
    if table.network == "student" and options.student is not None:
        made_of = ("data", "teacher", "sam", "sd", "refine", "cache")
        if options.student.source == "cache":
            labels = _folder(setting.root / LABELS, options, parts, contents, *made_of)
        student = _folder(setting.root / STUDENTS, options, parts, contents, *made_of, "student")
    link = setting.root / name / f"{row.name}-{seed}"
    return Trial(row, seed, link, tuple(overrides), options, teacher, labels, student)


def _folder(
    parent: Path, options: Options, parts: dict[str, Any], contents: dict[str, str], *groups: str
) -> Path:
    """The folder of a stage, named after all that it depends on."""
    settings = settings_of(options, parts, *groups)
    for name in FREE_TO_CHANGE:
        group, _, key = name.partition(".")
        settings.get(group, {}).pop(key, None)
    return parent / settings_hash([settings, contents]).removeprefix("sha256:")[:12]


def _contents(options: Options) -> dict[str, str]:
    """Hashes of the data set's annotation files, and where a folder of images is."""
    data = options.data
    named = {"labeled": data.labeled, "unlabeled": data.unlabeled, "val": data.val, "test": data.test}
    paths = {name: data.path(file) for name, file in named.items() if file is not None}
    return {name: str(path) if path.is_dir() else file_hash(path) for name, path in paths.items()}


def _labelled_share(setting: Setting, options: Options, percent: int | None, seed: int) -> list[str]:
    """Settings that label a share of the training images; its files are written if they are not there."""
    if percent is None:
        return []
    data, source = options.data, setting.train or options.refine.ground_truth
    if source is None:
        raise UserError(
            "The labelled share is drawn from annotations of all training images, and the config names "
            "none.\nGive them with --train FILE (COCO JSON, relative to data.root)."
        )
    folder = (setting.root / SPLITS / f"{percent:02d}-{seed}").absolute()
    if not (folder / RECORD).exists():
        whole = load_coco(data.path(source), data.path(data.train_images))
        held_out = [load_coco(*data.split("val"))]
        if data.test is not None:
            held_out.append(load_coco(*data.split("test")))
        write_split(whole, split_percent(whole, percent, seed, held_out), held_out, folder)
    return [f"data.labeled={folder / LABELED}", f"data.unlabeled={folder / UNLABELED}"]
