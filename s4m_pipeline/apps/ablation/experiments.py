"""Rows and seeds as experiments; a network that several of them have in common is trained once."""

import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

from s4m_cache.fingerprint import file_hash, settings_hash
from s4m_cache.locks import FileLock
from s4m_pipeline.apps.ablation.tables import Network, Row
from s4m_pipeline.config.experiment import FREE_TO_CHANGE, Options, load_experiment, settings_of
from s4m_pipeline.core import console
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.core.processes import Launcher
from s4m_pipeline.evaluation.matches import Matches
from s4m_pipeline.experiment.best import validation_ap
from s4m_pipeline.experiment.evaluation_file import current_results, matches_file

GROUPS: dict[Network, Sequence[str]] = {
    "teacher": ("data", "teacher", "sam", "sd"),
    "student": ("data", "teacher", "sam", "sd", "refine", "cache", "student"),
}
"""The groups of settings that each network depends on."""
COMMANDS: dict[Network, Sequence[str]] = {
    "teacher": ("--from teacher --until teacher", "--from evaluate --until evaluate"),
    "student": ("--from refine --until evaluate",),
}
"""Options of `s4m run` that train and evaluate it."""


class Trial(NamedTuple):
    """One row with one seed."""

    row: Row
    seed: int
    arguments: Sequence[str]
    """Of `s4m`."""
    split: str
    """What the networks are evaluated on."""
    folders: dict[Network, Path]
    """Of each network that is trained."""

    def ap(self, network: Network) -> float | None:
        """Mask AP of a network in percent; None if it is not trained and evaluated yet."""
        return self._score(network, "AP")

    def validation_ap(self, network: Network) -> float:
        """Mask AP of a network on the validation images in percent, by which the best weights are chosen."""
        return validation_ap(self.folders[network] / network) or 0.0

    def merged(self, network: Network) -> float | None:
        """Confident predictions of a network that cover several objects, in percent; None as for `ap`."""
        return self._score(network, "merged_rate")

    def _score(self, network: Network, name: str) -> float | None:
        folder = self.folders.get(network)
        return current_results(folder, self.split).get(network, {}).get(name) if folder else None

    def matches(self, network: Network) -> Matches | None:
        """Which predictions of a network match an object; None if it is not evaluated yet."""
        path = matches_file(self.folders[network] / network, self.split)
        return Matches.load(path) if self.ap(network) is not None and path.is_file() else None


def plan_trials(
    config: Path, overrides: Sequence[str], root: Path, network: Network, rows: Sequence[Row], seeds: int
) -> list[Trial]:
    """Every row with every seed, for the comparison of a network; writes nothing.

    Raises:
        UserError: if the config does not allow a row, or makes two rows the same.
    """
    if network == "student":
        load_experiment(config, overrides)[0].require_student()
    trials: dict[Path, Trial] = {}
    for seed, row in product(range(seeds), rows):
        settings = [
            *overrides,
            *row.settings.format(seed=seed).split(),
            f"teacher.seed={seed}",
            f"refine.seed={seed}",
        ]
        settings += [f"student.seed={seed}"] if network == "student" else []
        options, content = load_experiment(config, settings)
        files = {name: getattr(options.data, name) for name in ("labeled", "unlabeled", "val", "test")}
        paths = {name: options.data.path(file) for name, file in files.items() if file is not None}
        data = {name: _content(path) for name, path in paths.items()}
        folders: dict[Network, Path] = {}
        for trained, groups in list(GROUPS.items())[: 1 + (network == "student")]:
            depends_on = settings_of(options, content, *groups)
            for group, key in (name.split(".") for name in FREE_TO_CHANGE):
                (depends_on.get(group) or {}).pop(key, None)
            if trained == "student" and (truth := _true_labels(options)) is not None:
                depends_on["truth"] = _content(truth)
            folders[trained] = root / f"{trained}s" / settings_hash([depends_on, data]).partition(":")[2][:12]
        arguments = ["run", str(config), *(word for setting in settings for word in ("--set", setting))]
        if (cache := options.cache.root) is not None and network == "student":  # one for each student
            arguments += ["--set", f"cache.root={cache.rstrip('/')}/{folders[network].name}"]
        trial = Trial(row, seed, arguments, "test" if "test" in paths else "val", folders)
        other = trials.setdefault(folders[network], trial)
        if other is not trial:
            raise UserError(
                f"Rows {other.row.name} and {row.name} are the same experiment with {config}.\n"
                "What they differ in must be on in the config: see refine.prompt and student.arp."
            )
    return list(trials.values())


def _content(path: Path) -> str:
    return file_hash(path) if path.is_file() else str(path)


def _true_labels(options: Options) -> Path | None:
    """The annotations of unlabeled images that a student learns from, if it does."""
    truth, source = options.refine.ground_truth, options.require_student().source
    return options.data.path(truth) if source == "truth" and truth is not None else None


def train_all(trials: Sequence[Trial], devices: int, jobs: int, launcher: Launcher, lock: FileLock) -> bool:
    """Train and evaluate what is not done, `jobs` networks at a time, teachers first; returns whether all is.

    Commands inherit the lock of the ablation's folder, because they may outlive this process.
    """
    with ThreadPoolExecutor(jobs) as pool:
        for network in GROUPS:
            unique = {trial.folders[network]: trial for trial in trials if network in trial.folders}
            list(pool.map(partial(_train, network, devices, launcher, lock), unique.values()))
    return all(trial.ap(network) is not None for trial in trials for network in trial.folders)


def _train(network: Network, devices: int, launcher: Launcher, lock: FileLock, trial: Trial) -> None:
    """Train and evaluate a network unless that is done, or its teacher is missing."""
    if trial.ap(network) is not None or (network == "student" and trial.ap("teacher") is None):
        return
    folder, title = trial.folders[network], f"{network} of {trial.row.name}, seed {trial.seed}"
    log, half = folder.with_suffix(".log"), folder.with_suffix(".tmp")
    if network == "student" and not folder.exists():
        shutil.rmtree(half, ignore_errors=True)
        left_out = shutil.ignore_patterns("*.pth", "last_checkpoint", "log")  # what led to the teacher
        shutil.copytree(trial.folders["teacher"], half, ignore=left_out)
        half.rename(folder)
    folder.mkdir(parents=True, exist_ok=True)
    console.progress.print(f"{title}: log in {log}", soft_wrap=True)
    for command in COMMANDS[network]:
        words = [*trial.arguments, *command.split(), "--work-dir", str(folder), "--devices", str(devices)]
        with log.open("ab") as output:
            code = launcher.run(words, output=output, pass_fds=[lock.fileno()])
        if code:
            end = "\n  ".join(log.read_text(errors="replace").splitlines()[-12:])
            console.progress.print(f"{title}: exit code {code}\n  {end}", soft_wrap=True)
            return
