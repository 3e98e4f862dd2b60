"""An early sign that unlabeled images do harm: the student falls clearly below its teacher."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook

from s4m_pipeline.config.experiment import Options
from s4m_pipeline.config.student import OWN_TEACHER
from s4m_pipeline.core import console
from s4m_pipeline.core.paths import STUDENT, TEACHER
from s4m_pipeline.evaluation.causes import likely_causes
from s4m_pipeline.experiment.metrics import validations
from s4m_pipeline.experiment.run_record import read_run

CLEARLY_BELOW = 0.8
"""Fraction of the teacher's validation AP below which the student is clearly worse."""


def falls_below(teacher_ap: float, student_aps: Sequence[float]) -> bool:
    """Whether the last validation AP is clearly below the teacher's, and not above the one before.

    A student that starts from scratch is below its teacher at first, but its AP rises.
    """
    if len(student_aps) < 2:
        return False
    before, last = student_aps[-2:]
    return last < CLEARLY_BELOW * teacher_ap and last <= before


class WarnBelowTeacher(Hook):
    """Prints a warning, once, when the student's validation AP falls clearly below its teacher's.

    Validations during the burn-in do not count. A student that starts from its teacher has the teacher's AP
    before its first validation.

    Args:
        experiment: folder of teacher and student; nothing is compared without a validated teacher in it.
        options: of the experiment, with a student.
    """

    priority = "LOWEST"  # after MetricsHook has recorded the validation

    def __init__(self, experiment: Path, options: Options) -> None:
        self.experiment = experiment
        self.options = options
        self.warned = False

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        student = self.options.require_student()
        teacher = read_run(self.experiment / TEACHER) or {}
        teacher_ap = (teacher.get("result") or {}).get("AP")
        if self.warned or teacher_ap is None or not metrics or runner.iter <= student.burn_in:
            return
        aps = [validation["AP"] for validation in validations(self.experiment / STUDENT)]
        if student.init_from == OWN_TEACHER:
            aps.insert(0, teacher_ap)
        if falls_below(teacher_ap, aps):
            self.warned = True
            console.progress.print(self._message(runner.iter, teacher_ap, aps[-1]), soft_wrap=True)

    def _message(self, iteration: int, teacher_ap: float, ap: float) -> str:
        causes = likely_causes(self.experiment, self.options)
        advice = f"{causes[0].text} Try {causes[0].settings}." if causes else "Try --set refine.prompt=auto."
        return (
            f"iteration {iteration}  Warning: validation AP {ap:.1f} is clearly below the teacher's "
            f"{teacher_ap:.1f} and not rising, so training on unlabeled images probably does harm. {advice}"
        )
