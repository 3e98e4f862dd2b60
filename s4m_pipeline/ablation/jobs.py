"""The work behind the trials: each stage once in its own folder, several at a time, and it may be killed."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cache.atomic import TEMPORARY
from cache.errors import LockedError
from cache.generations import current_number
from cache.locks import FileLock
from s4m_pipeline.ablation.plan import Setting, Trial
from s4m_pipeline.ablation.tables import Network
from s4m_pipeline.children import S4M
from s4m_pipeline.evaluation.results import kept_result
from s4m_pipeline.layout import CACHE, EVALUATION, STUDENT, TEACHER, WEIGHTS

LOG = "ablation.log"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """A stage of a trial, or of several that share it."""

    title: str
    folder: Path
    commands: tuple[tuple[str, ...], ...]
    """Arguments of `s4m`."""
    takes: tuple[Path, ...]
    """Results of earlier jobs, copied into the folder first."""
    done: Callable[[], bool]


def result_of(trial: Trial, folder: Path, network: Network) -> dict[str, float] | None:
    """The evaluation of a network in a folder of the trial, or None if it is not finished."""
    weights = folder / network / WEIGHTS
    return kept_result(folder, trial.split, network, weights) if weights.exists() else None


def jobs_of(setting: Setting, trials: Sequence[Trial], devices: int) -> list[dict[Path, Job]]:
    """All jobs by folder: teachers, labels, students; each takes what jobs before it made."""
    teachers: dict[Path, Job] = {}
    labels: dict[Path, Job] = {}
    students: dict[Path, Job] = {}
    for trial in trials:
        teachers.setdefault(trial.teacher, _teacher_job(setting, trial, devices))
        if trial.labels is not None:
            labels.setdefault(trial.labels, _labels_job(setting, trial, trial.labels))
        if trial.student is not None:
            students.setdefault(trial.student, _student_job(setting, trial, trial.student, devices))
    return [teachers, labels, students]


def _teacher_job(setting: Setting, trial: Trial, devices: int) -> Job:
    folder = trial.teacher
    commands = (
        _chain(setting, trial, folder, TEACHER, TEACHER, devices),
        _chain(setting, trial, folder, "evaluate", "evaluate", devices),
    )
    title = f"teacher for {trial.row.name}, seed {trial.seed}"
    return Job(title, folder, commands, (), lambda: result_of(trial, folder, "teacher") is not None)


def _labels_job(setting: Setting, trial: Trial, folder: Path) -> Job:
    return Job(
        f"pseudo-labels for {trial.row.name}, seed {trial.seed}",
        folder,
        (_chain(setting, trial, folder, "refine", "refine", 1),),
        (trial.teacher / TEACHER,),
        lambda: current_number(folder / CACHE) > 0,
    )


def _student_job(setting: Setting, trial: Trial, folder: Path, devices: int) -> Job:
    takes = [trial.teacher / TEACHER, trial.teacher / EVALUATION]
    if trial.labels is not None:
        takes.append(trial.labels / CACHE)
    return Job(
        f"student {trial.row.name}, seed {trial.seed}",
        folder,
        (_chain(setting, trial, folder, STUDENT, "evaluate", devices),),
        tuple(takes),
        lambda: result_of(trial, folder, "student") is not None,
    )


def _chain(
    setting: Setting, trial: Trial, folder: Path, first: str, last: str, devices: int
) -> tuple[str, ...]:
    """Arguments of `s4m run` for some stages."""
    command = ["run", str(setting.config), "--from", first, "--until", last, "--work-dir", str(folder)]
    command += ["--devices", str(devices)]
    return (*command, *(word for override in trial.overrides for word in ("--set", override)))


class Stopped(Exception):
    """A signal has come."""


class Workers:
    """Runs jobs, several at a time, each command in a process of its own that writes into a log.

    Args:
        at_once: jobs at a time.
        say: told of every job that begins, ends or waits.

    Attributes:
        received: number of the signal that ended the work; 0: none.
        failed: jobs that failed, with their logs.
    """

    def __init__(self, at_once: int, say: Say) -> None:
        self.at_once = at_once
        self.say = say
        self.received = 0
        self.failed: dict[Path, Job] = {}
        self._running: set[subprocess.Popen[bytes]] = set()
        threads = max(1, (os.cpu_count() or 1) // at_once)
        self._environment = {"OMP_NUM_THREADS": str(threads), **os.environ}

    def stop(self, number: int) -> None:
        """Let running commands save themselves and end, and begin no other."""
        self.received = number
        for process in list(self._running):
            process.terminate()

    def run(self, phases: Sequence[dict[Path, Job]]) -> None:
        """Do what is not done yet, the first job that has all it takes first.

        A job that takes the result of one that is not finished (it failed, or a signal came) is left out, and
        takes nothing: the next run begins it with the finished result.
        """
        waiting = [job for phase in phases for job in phase.values() if not job.done()]
        unfinished = {job.folder for job in waiting}
        running: dict[Future[None], Job] = {}
        with ThreadPoolExecutor(self.at_once) as pool:
            while waiting or running:
                ready = [job for job in waiting if not any(made.parent in unfinished for made in job.takes)]
                for job in ready[: self.at_once - len(running)]:
                    waiting.remove(job)
                    running[pool.submit(self._try, job)] = job
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    future.result()
                    job = running.pop(future)
                    if job.done():
                        unfinished.remove(job.folder)
                    else:
                        waiting = self._without_heirs(job, waiting)

    def _without_heirs(self, lost: Job, waiting: Sequence[Job]) -> list[Job]:
        """The waiting jobs but for those that take from `lost`, or from one of these."""
        folders, others = {lost.folder}, []
        for job in waiting:
            if not any(made.parent in folders for made in job.takes):
                others.append(job)
                continue
            folders.add(job.folder)
            if not self.received:
                self.say(f"{job.title}: left out, without {lost.title}")
        return others

    def _try(self, job: Job) -> None:
        began = time.monotonic()
        try:
            with self._alone(job) as lock:
                if job.done():  # by another `s4m ablation`
                    return
                self.say(f"{job.title}: begins; log: {job.folder / LOG}")
                take(job)
                for command in job.commands:
                    self._call(command, job, lock)
        except Stopped:
            return
        except subprocess.CalledProcessError as error:
            self.failed[job.folder] = job
            self.say(f"{job.title}: failed (exit code {error.returncode}):\n{tail(job.folder / LOG)}")
            return
        self.say(f"{job.title}: done in {(time.monotonic() - began) / 60:.1f} minutes")

    @contextmanager
    def _alone(self, job: Job) -> Iterator[FileLock]:
        """Keep other processes out of the job's folder, even if this one is killed and its children are not.

        Raises:
            Stopped: if a signal came while others worked there.
        """
        job.folder.mkdir(parents=True, exist_ok=True)
        told = False
        while not self.received:
            try:
                lock = FileLock(job.folder / ".lock", exclusive=True)
            except LockedError as error:
                if not told:
                    self.say(f"{job.title}: waits, {error}")
                told = True
                time.sleep(0.5)
                continue
            with lock:
                yield lock
            return
        raise Stopped

    def _call(self, command: Sequence[str], job: Job, lock: FileLock) -> None:
        if self.received:
            raise Stopped
        with (job.folder / LOG).open("ab") as log:
            process = subprocess.Popen(
                [*S4M, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                pass_fds=(lock.fileno(),),
                start_new_session=True,  # Ctrl-C comes here alone
            )
        self._running.add(process)
        if self.received:  # meanwhile
            process.terminate()
        try:
            code = process.wait()
        finally:
            self._running.discard(process)
        if self.received:
            raise Stopped
        if code:
            raise subprocess.CalledProcessError(code, command)


def take(job: Job) -> None:
    """Copy what the job begins with into its folder, without the checkpoints that led there."""
    for source in job.takes:
        target = job.folder / source.name
        if target.exists():
            continue
        half = job.folder / f"{TEMPORARY}{source.name}"
        if source.is_dir():
            shutil.rmtree(half, ignore_errors=True)
            shutil.copytree(source, half, ignore=shutil.ignore_patterns("*.pth", "last_checkpoint", "log"))
        else:
            shutil.copyfile(source, half)
        half.rename(target)


def tail(log: Path, lines: int = 12) -> str:
    """The end of a log, indented."""
    text = log.read_text(errors="replace") if log.exists() else ""
    return "\n".join(f"  {line}" for line in text.splitlines()[-lines:])
