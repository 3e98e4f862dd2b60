"""The verdict on an experiment: is the student better than its teacher, and than the control?"""

import dataclasses
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s4m_cache.atomic import write_text
from s4m_pipeline.config.experiment import Options
from s4m_pipeline.config.groups import Split
from s4m_pipeline.core.paths import CONTROL, STUDENT, TEACHER, VERDICT, experiment_folder
from s4m_pipeline.evaluation.causes import Cause, likely_causes
from s4m_pipeline.evaluation.intervals import Interval, draw_weights, interval_of
from s4m_pipeline.evaluation.matches import Matches
from s4m_pipeline.experiment.evaluation_file import current_results, matches_file

_NAMES = {
    TEACHER: "its teacher",
    CONTROL: "the control, the same training without unlabeled images",
}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Mask AP in percent of what an experiment has trained, and what it says about the student."""

    split: Split
    num_images: int
    scores: Mapping[str, Interval]
    """By stage: teacher, student and, if it was trained, control."""
    differences: Mapping[str, Interval]
    """The student's AP less that of the teacher and of the control; the interval is of paired draws."""
    chosen: Sequence[str]
    """What was chosen on these very images."""
    causes: Sequence[Cause]
    """Likely ones; empty where the student is better."""

    @property
    def student_is_better(self) -> bool:
        """Than all that it is compared with, by more than chance."""
        return all(difference.above_zero for difference in self.differences.values())

    def lines(self, command: str) -> list[str]:
        """In words.

        Args:
            command: the `s4m run` of this experiment, to which the settings of the causes are added.
        """
        return [
            f"Mask AP on data.{self.split} ({self.num_images} images), with 95 % intervals:",
            *(f"  {stage}: {score.text()}" for stage, score in self.scores.items()),
            *(_comparison(_NAMES[stage], found) for stage, found in self.differences.items()),
            *self._remedies(command),
            *self._caution(),
        ]

    def as_record(self, command: str) -> dict[str, Any]:
        """As JSON, with the words."""
        return {**dataclasses.asdict(self), "better": self.student_is_better, "text": self.lines(command)}

    def _remedies(self, command: str) -> list[str]:
        if self.student_is_better:
            return []
        lines = ["Likely causes:"] if self.causes else ["Nothing that was measured explains it."]
        for cause in self.causes:
            lines.append(f"  - {cause.text}")
            if cause.settings:
                lines.append(f"    {command} {cause.settings} --overwrite")
        if CONTROL not in self.scores:
            lines += ["Whether unlabeled images help at all is told by the same training without them:"]
            lines += [f"    {command} --control"]
        return lines

    def _caution(self) -> list[str]:
        if not self.chosen:
            return []
        return [
            f"This is optimistic: there is no test split, and on these images were chosen: "
            f"{', '.join(self.chosen)}. Set data.test and data.test_images for a fair comparison."
        ]


def _comparison(name: str, difference: Interval) -> str:
    words = f"difference in AP {difference.text(sign=True)}"
    if difference.above_zero:
        return f"The student is better than {name}: {words}."
    if difference.below_zero:
        return f"Warning: the student is worse than {name}: {words}."
    return f"Warning: the student is not shown to be better than {name}: {words}."


def find_verdict(folder: Path, options: Options) -> Verdict | None:
    """The verdict from the results that an experiment keeps; None if teacher or student have none."""
    split: Split = "val" if options.data.test is None else "test"
    found = _kept_matches(folder, split)
    if not {TEACHER, STUDENT} <= found.keys():
        return None
    num_images = len(found[STUDENT].image_ids)
    weights = draw_weights(num_images)
    scores = {stage: matches.average_precision(weights) for stage, matches in found.items()}
    verdict = Verdict(
        split=split,
        num_images=num_images,
        scores={stage: interval_of(values) for stage, values in scores.items()},
        differences={
            stage: interval_of(scores[STUDENT] - values)
            for stage, values in scores.items()
            if stage != STUDENT
        },
        chosen=_chosen_on_validation(options) if split == "val" else (),
        causes=(),
    )
    if verdict.student_is_better:
        return verdict
    return dataclasses.replace(verdict, causes=likely_causes(folder, options))


def write_verdict(folder: Path, options: Options, command: str) -> Verdict | None:
    """Write the verdict on an experiment to its folder; without results, remove an earlier one."""
    verdict = find_verdict(folder, options)
    if verdict is None:
        (folder / VERDICT).unlink(missing_ok=True)
    else:
        write_text(folder / VERDICT, json.dumps(verdict.as_record(command), indent=2) + "\n")
    return verdict


def kept_verdict(folder: Path) -> list[str]:
    """The words of an experiment's verdict; none before teacher and student were evaluated."""
    path = folder / VERDICT
    return list(json.loads(path.read_text())["text"]) if path.is_file() else []


def run_command(config: Path, folder: Path, overrides: Sequence[str]) -> str:
    """The `s4m run` that made an experiment's folder."""
    words = ["s4m", "run", str(config), *(word for setting in overrides for word in ("--set", setting))]
    if folder.resolve() != experiment_folder(config).resolve():
        words += ["--work-dir", str(folder)]
    return shlex.join(words)


def _kept_matches(folder: Path, split: Split) -> dict[str, Matches]:
    """Matches of the finished weights, by stage, as far as they were evaluated as the student was."""
    results = current_results(folder, split)
    conditions = results.get(STUDENT, {}).get("conditions")
    return {
        stage: Matches.load(path)
        for stage, result in results.items()
        if result["conditions"] == conditions and (path := matches_file(folder / stage, split)).is_file()
    }


def _chosen_on_validation(options: Options) -> list[str]:
    """What a run of these settings decides by the validation images."""
    student, refine = options.require_student(), options.refine
    chosen = ["best.safetensors"]
    if student.source == "cache" and student.gate == "reject":
        chosen.append("which generations of labels were taken (student.gate)")
    if student.source == "cache" and refine.prompt == "auto":
        chosen.append("whose masks they have (refine.prompt=auto)")
    if student.source == "cache" and refine.accept == "calibrated":
        chosen.append("which of SAM's masks were used (refine.accept=calibrated)")
    return chosen
