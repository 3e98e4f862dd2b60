"""Which masks a generation gets: SAM's, or the teacher's own where the validation images show them better."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from s4m_cache import sealed
from s4m_cache.errors import DamagedError, disk_error
from s4m_cache.generation import Generation
from s4m_pipeline.config.groups import PromptType, Recipe
from s4m_pipeline.config.student import StudentOptions
from s4m_pipeline.core import console
from s4m_pipeline.refine.acceptance import MIN_IMAGES, MIN_INSTANCES, Acceptance, calibrate
from s4m_pipeline.refine.comparison import CALIBRATED, MaskKind, ValidationCounts
from s4m_pipeline.refine.fingerprint import needs_choice
from s4m_pipeline.refine.inputs import RefineInputs
from s4m_pipeline.refine.validation import read_validation

TOO_FEW = (
    f"too few validation labels for refine.accept=calibrated (at least {MIN_INSTANCES} with an object, on "
    f"{MIN_IMAGES} images)"
)


@dataclass(frozen=True)
class MaskChoice:
    """The masks that a generation is labeled with, and why."""

    prompt: PromptType | None
    """How SAM is asked; None: the teacher's own masks."""
    reason: str
    acceptance: Acceptance | None = None
    """Which of SAM's masks are used, and which labels ignored; None: all, and none."""

    @property
    def kind(self) -> MaskKind | None:
        """What these masks are called among those compared."""
        return self.prompt if self.acceptance is None else CALIBRATED

    @property
    def text(self) -> str:
        """In a line."""
        if self.prompt is None:
            return f"the teacher's own masks: {self.reason}"
        which = "" if self.acceptance is None else " where they are likely better than the teacher's"
        return f"SAM's masks{which}, prompt {self.prompt!r}: {self.reason}"


def choose_masks(inputs: RefineInputs, generation: Generation) -> MaskChoice:
    """The masks that all shards of a generation are labeled with, decided once.

    The validation images of all shards must have been measured, if `needs_choice`.

    Raises:
        CacheError: if writing to the disk fails.
    """
    path = _choice_path(generation)
    made = read_choice(generation)
    if made is None:
        recipe, student = inputs.options.refine, inputs.options.student
        counts = read_validation(inputs, generation) if needs_choice(recipe, student) else None
        made = decide_masks(recipe, student, counts)
        try:  # atomic; other shards decide alike, because they read the same counts
            acceptance = made.acceptance and made.acceptance.as_record()
            sealed.write(path, {"prompt": made.prompt, "reason": made.reason, "acceptance": acceptance})
        except OSError as error:
            raise disk_error(path, 4096, error) from error
        _print_choice(made, generation, recipe, counts, inputs.labeled.class_names)
    return made


def _print_choice(
    made: MaskChoice,
    generation: Generation,
    recipe: Recipe,
    counts: ValidationCounts | None,
    classes: Sequence[str],
) -> None:
    if recipe.prompt == made.prompt:
        return
    warning = "" if recipe.prompt == "auto" else "Warning: "
    console.progress.print(f"{warning}{generation.name} gets {made.text}.", soft_wrap=True)
    if counts is None:
        return
    objects = [tally.objects for tally in counts.tallies(None).by_class]
    unseen = [name for name, count in zip(classes, objects, strict=True) if not count]
    if unseen and len(counts.image_ids):
        console.progress.print(
            f"No validation image shows {', '.join(unseen)}: the other classes alone decide.", soft_wrap=True
        )


def read_choice(generation: Generation) -> MaskChoice | None:
    """The masks chosen for a generation; None if that was not decided yet."""
    try:
        body = sealed.read(_choice_path(generation))
    except (FileNotFoundError, DamagedError):
        return None
    acceptance = body["acceptance"] and Acceptance.from_record(body["acceptance"])
    return MaskChoice(body["prompt"], body["reason"], acceptance)


def decide_masks(
    recipe: Recipe, student: StudentOptions | None, counts: ValidationCounts | None
) -> MaskChoice:
    """A kind of prompt or none, and with `refine.accept=calibrated` a rule for each label if it is better."""
    choice = _decide_prompt(recipe, student, counts)
    if recipe.accept == "all" or recipe.prompt is None or counts is None or not len(counts.image_ids):
        return choice
    prompt = best_prompt(counts) if recipe.prompt == "auto" else recipe.prompt
    found = calibrate(counts.samples[prompt], recipe.ignore_below)
    if found is None:
        return replace(choice, reason=f"{choice.reason}; {TOO_FEW}")
    if found.chosen == CALIBRATED or recipe.ignore_below:  # which labels are ignored depends on SAM's masks
        return MaskChoice(prompt, found.text, found.acceptance)
    if found.chosen == "raw" and recipe.prompt != "auto":
        return MaskChoice(None, found.text)
    return replace(choice, reason=f"{choice.reason}; {found.text}")


def with_choice(counts: ValidationCounts, choice: MaskChoice) -> ValidationCounts:
    """Counts that include the masks chosen; those that acceptance takes of an image, it takes without it."""
    if choice.acceptance is None or choice.prompt is None:
        return counts
    found = calibrate(counts.samples[choice.prompt], choice.acceptance.ignore_below)
    return counts if found is None else counts.with_calibrated(choice.prompt, found.use_raw, found.ignored)


def _decide_prompt(
    recipe: Recipe, student: StudentOptions | None, counts: ValidationCounts | None
) -> MaskChoice:
    """With `auto` the best prompt, if it is better than the teacher's own masks by more than chance.

    Any other setting is followed, unless the gate refuses its masks: more than `student.gate_drop` points of
    PQ below the teacher's own masks, and worse by more than chance.
    """
    if recipe.prompt is None:
        return MaskChoice(None, "refine.prompt is none")
    if counts is None or not len(counts.image_ids):
        if recipe.prompt == "auto":
            return MaskChoice(None, "there are no validation images on which prompts could be compared")
        return MaskChoice(recipe.prompt, "as configured")
    images = f"{len(counts.image_ids)} validation image(s)"
    best = best_prompt(counts) if recipe.prompt == "auto" else recipe.prompt
    found = counts.pq_difference(best)
    difference = f"{found.text(sign=True)} points of PQ on {images} against the teacher's own masks"
    if recipe.prompt == "auto":
        if found.above_zero:
            return MaskChoice(best, difference)
        return MaskChoice(
            None, f"no prompt is better by more than chance; the best is {best!r}, {difference}"
        )
    allowed = student.gate_drop if student is not None and student.gate == "reject" else math.inf
    if found.below_zero and -found.estimate > allowed:
        return MaskChoice(
            None,
            f"student.gate=reject refuses masks that are clearly worse, and refine.prompt={best} gives "
            f"{difference}",
        )
    return MaskChoice(recipe.prompt, "as configured")


def best_prompt(counts: ValidationCounts) -> PromptType:
    """The kind of prompts of highest PQ; one that is better than none by more than chance comes first."""
    differences = {kind: counts.pq_difference(kind) for kind in counts.by_prompt if kind is not None}
    prompts = [kind for kind in differences if kind != CALIBRATED]
    return max(prompts, key=lambda kind: (differences[kind].above_zero, differences[kind].estimate))


def _choice_path(generation: Generation) -> Path:
    return generation.path / "masks.json"
