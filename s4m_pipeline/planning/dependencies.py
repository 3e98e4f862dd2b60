"""What each training depends on, as its run.json records it: settings, and hashes of files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from s4m_cache.fingerprint import Fingerprint, file_sha256
from s4m_pipeline.config.experiment import Options, settings_of
from s4m_pipeline.config.groups import DataOptions
from s4m_pipeline.config.sam_files import sam_source
from s4m_pipeline.config.student import OWN_TEACHER
from s4m_pipeline.config.weight_files import TORCHVISION, weights_here
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.core.paths import TEACHER, WEIGHTS
from s4m_pipeline.experiment.changes import INITIAL_WEIGHTS

Dependencies = tuple[dict[str, Any], dict[str, str]]
"""Settings by group, and the hash of each file by what it is."""


def teacher_dependencies(options: Options, config: Mapping[str, Any]) -> Dependencies:
    """What decides what the teacher learns.

    Args:
        config: the whole config as plain values.

    Raises:
        UserError: if a file is missing.
    """
    contents = _data_contents(options.data) | _initial_content(options.teacher.init_from)
    groups = ["data", "teacher"]
    if options.sd.enabled:
        contents["SAM weights"] = sam_source(options.sam).weights_sha256
        groups += ["sam", "sd"]
    settings = settings_of(options, config, *groups)
    if options.teacher.augmented_fraction and options.student is not None:
        settings["student"] = options.student.model_dump(include={"arp", "photometric"})
    return settings, contents


def student_dependencies(
    options: Options, config: Mapping[str, Any], experiment: Path, labels: Fingerprint | None
) -> Dependencies:
    """What decides what the student learns.

    Args:
        config: the whole config as plain values.
        experiment: the folder that has the teacher.
        labels: what made the labels that the training started with, or would start with now; None: it needs
            none.

    Raises:
        UserError: if a file is missing.
    """
    student = options.require_student()
    own_teacher = str(experiment / TEACHER / WEIGHTS)
    contents = _data_contents(options.data)
    contents |= _initial_content(own_teacher if student.init_from == OWN_TEACHER else student.init_from)
    contents |= {f"labels: {name}": str(value) for name, value in (labels or {}).items()}
    groups = ["data", "student"]
    if student.source == "cache":
        groups += ["sam", "refine"]
    truth = options.refine.ground_truth
    if student.source == "truth" and truth is not None and options.data.path(truth).is_file():
        contents["refine.ground_truth"] = file_sha256(options.data.path(truth))
    if student.distill:
        contents["SAM weights"] = sam_source(options.sam).weights_sha256
        groups += ["sam", "sd"]
    # The teacher's own settings are in the hash of its weights; a refresh labels in the teacher's precision.
    settings = {"teacher": {"precision": options.teacher.precision}}
    return settings_of(options, config, *groups) | settings, contents


def _data_contents(data: DataOptions) -> dict[str, str]:
    files = {"data.labeled": data.path(data.labeled), "data.val": data.path(data.val)}
    for name, path in files.items():
        if not path.is_file():
            raise UserError(f"{name}: no such file: {path}. Expected a COCO JSON.")
    return {name: file_sha256(path) for name, path in files.items()}


def _initial_content(init_from: str | None) -> dict[str, str]:
    """The hash of the file that a training starts from; empty if there is none, or none any more."""
    if init_from is None or init_from.startswith(TORCHVISION):
        return {}
    found = weights_here(init_from)
    return {} if found is None else {INITIAL_WEIGHTS: found.digest()}
