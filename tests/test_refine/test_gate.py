"""Do no harm: which masks are taken, whatever SAM is worth, and which labels the gate refuses."""

import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from typer.testing import CliRunner

from s4m_cache.generation import Generation
from s4m_cache.generations import current_number, publish
from s4m_cache.locks import FileLock
from s4m_cache.reader import CacheReader
from s4m_cache.sharding import ShardSpec
from s4m_pipeline.config.groups import Recipe
from s4m_pipeline.config.student import StudentOptions
from s4m_pipeline.data.coco import load_coco
from s4m_pipeline.data.images import read_rgb
from s4m_pipeline.data.packed_masks import pack_masks
from s4m_pipeline.evaluation.ground_truth import truth_masks
from s4m_pipeline.experiment.generation_log import PER_IMAGE
from s4m_pipeline.refine import acceptance, choice, gate, labeler
from s4m_pipeline.refine.choice import decide_masks, read_choice
from s4m_pipeline.refine.comparison import ValidationCounts
from s4m_pipeline.refine.gate import find_faults
from s4m_pipeline.refine.generation import begin_generation, label_shards
from s4m_pipeline.refine.inputs import RefineInputs
from s4m_pipeline.refine.labeler import Labeler
from s4m_pipeline.refine.preview import preview_labels
from s4m_pipeline.refine.prompts import Refined
from s4m_pipeline.refine.publish import LabelsRefused, publish_if_complete
from s4m_pipeline.refine.validation import COMPARED
from test_refine.conftest import inputs_of, make_generation, never

ALL = ShardSpec(1, 1)


# Decisions, from counts alone.


def counts_of(*ious: float | list[float], num_images: int = 8, objects: int = 4) -> ValidationCounts:
    """Own masks, then each prompt: every object is found, with the IoU given (of each image)."""
    kinds = (None, *COMPARED)[: len(ious)]
    tables = {}
    for kind, iou in zip(kinds, ious, strict=True):
        of_image = np.broadcast_to(np.asarray(iou, float), num_images)
        rows = [[objects, objects, objects, round(1e6 * objects * value)] for value in of_image]
        tables[kind] = np.array(rows, np.int64)[:, None]
    return ValidationCounts(np.arange(num_images), tables)


def student(gate: str = "reject") -> StudentOptions:
    return StudentOptions(iterations=1, batch_size=1, unlabeled_batch_size=1, gate=gate)


AUTO = Recipe(prompt="auto")


def test_decide_masks__auto__takes_the_best_of_those_that_are_surely_better():
    choice = decide_masks(AUTO, None, counts_of(0.7, 0.8, 0.6, 0.9, 0.75))
    assert choice.prompt == "box"
    assert choice.reason.startswith("+20.0 [+20.0, +20.0] points of PQ on 8 validation image(s)")


def test_decide_masks__auto_and_all_worse__keeps_the_teachers_own():
    choice = decide_masks(AUTO, None, counts_of(0.7, 0.6, 0.5, 0.65, 0.6))
    assert choice.prompt is None
    assert "no prompt is better by more than chance; the best is 'box', -5.0" in choice.reason


def test_decide_masks__auto_and_better_by_chance_only__keeps_the_teachers_own():
    noisy = [0.95, 0.5, 0.95, 0.5, 0.95, 0.5, 0.95, 0.7]  # on average 5 points more
    assert decide_masks(AUTO, None, counts_of(0.7, noisy)).prompt is None


def test_decide_masks__auto_and_one_image__keeps_the_teachers_own_and_says_why():
    choice = decide_masks(AUTO, None, counts_of(0.6, 0.9, num_images=1))
    assert choice.prompt is None
    assert "no interval: a single image" in choice.reason


@pytest.mark.parametrize("counts", [None, counts_of(0.6, 0.9, num_images=0)], ids=["no file", "no image"])
def test_decide_masks__auto_and_no_validation_images__keeps_the_teachers_own_and_says_why(counts):
    choice = decide_masks(AUTO, None, counts)
    assert choice.prompt is None
    assert "no validation images" in choice.reason


@pytest.mark.parametrize(
    ("gate", "refined", "prompt"),
    [
        ("reject", 0.6, None),
        ("reject", 0.69, "points"),  # a point less, and two are allowed
        ("warn", 0.6, "points"),
        ("off", 0.6, "points"),
    ],
)
def test_decide_masks__configured_prompt__is_overruled_if_clearly_worse_and_the_gate_may(
    gate, refined, prompt
):
    choice = decide_masks(Recipe(prompt="points"), student(gate), counts_of(0.7, refined))
    assert choice.prompt == prompt


def test_validation_counts__of_shards_in_any_order__are_the_same():
    whole = counts_of(0.7, np.linspace(0.5, 1, 8).tolist())

    def part(*images: int) -> ValidationCounts:
        rows = np.array(images)
        return ValidationCounts(rows, {kind: table[rows] for kind, table in whole.by_prompt.items()})

    both = part(1, 4, 7) + part(0, 3, 6) + part(2, 5)
    assert both.compared(("a",)) == whole.compared(("a",))


# Whole generations, by a teacher that nearly knows the truth and a SAM that is perfect or useless.


class Truth(NamedTuple):
    labels: np.ndarray
    masks: np.ndarray


class Teacher:
    """Takes the teacher's place: the true objects on its coarse grid, the first one most confident.

    Attributes:
        limit: objects it finds per image.
        misnames: whether it gives every second object the class of another one.
        truths: of the photos that it saw last, objects in the order of the labels.
    """

    def __init__(self, data: Path) -> None:
        self.limit = 100
        self.misnames = False
        self.truths: list[Truth] = []
        self._known = {}
        for name in ("train", "val"):
            truth = load_coco(data / f"{name}.json", data / name)
            for image in truth.images:
                found = truth_masks(truth, image)
                masks = found.masks.dense((0, 0, image.height, image.width))
                self._known[read_rgb(image.path)[0].tobytes()] = Truth(found.labels, masks)
        self._num_classes = len(truth.categories)

    def run(self, labeler: Labeler, photos, frames) -> list[tuple[torch.Tensor, torch.Tensor]]:
        known = [self._known[photo.pixels.permute(1, 2, 0).numpy().tobytes()] for photo in photos]
        self.truths = [Truth(t.labels[: self.limit].copy(), t.masks[: self.limit]) for t in known]
        for truth in self.truths if self.misnames else ():
            truth.labels[1::2] = (truth.labels[1::2] + 1) % self._num_classes
        return [self._queries(*pair) for pair in zip(self.truths, frames, strict=True)]

    def _queries(self, truth: Truth, frame) -> tuple[torch.Tensor, torch.Tensor]:
        height, width = frame.grid_hw
        padded = torch.zeros(len(truth.labels) + 1, 4 * height, 4 * width)  # one query finds nothing
        padded[:-1, : truth.masks.shape[1], : truth.masks.shape[2]] = torch.from_numpy(truth.masks).float()
        masks = 8 * F.avg_pool2d(padded[:, None], 4)[:, 0] - 4
        confidence = torch.linspace(0.99, 0.8, len(masks))
        scores = torch.full((len(masks), self._num_classes + 1), 1e-6)
        scores[torch.arange(len(masks) - 1), torch.from_numpy(truth.labels)] = confidence[:-1]
        scores[:, -1] = 1 - scores[:, :-1].sum(1)
        return scores.log(), masks


@pytest.fixture
def teacher(experiment: Path, monkeypatch: pytest.MonkeyPatch) -> Teacher:
    stub = Teacher(experiment / "data")
    monkeypatch.setattr(Labeler, "_run_teacher", lambda self, *arguments: stub.run(self, *arguments))
    return stub


@pytest.fixture
def perfect_sam(teacher: Teacher) -> None:
    """Answers with the truth."""
    importlib.import_module("s4m_pipeline.apps.ablation.perfect_sam")


@pytest.fixture
def useless_sam(teacher: Teacher) -> None:
    """The shipped SAM 2, asked for places where the objects are not."""
    importlib.import_module("s4m_pipeline.apps.ablation.useless_sam")


@pytest.fixture
def load(student_config: Path, experiment: Path) -> Callable[..., RefineInputs]:
    """Six validation images, which are the unlabeled ones with their truth; two of them show nothing."""
    settings = ("data.val=train.json", "data.val_images=train", "refine.min_score=0.5")

    return partial(inputs_of, student_config, experiment, *settings)


def keeps_own_masks(root: Path, number: int = 1) -> bool:
    with CacheReader(Generation(root, number)) as reader:
        labels = [reader.read(image_id, raw=True).instances for image_id in reader.image_ids.tolist()]
    return all(np.array_equal(one.masks.bits, one.raw_masks.bits) for one in labels)


def test_auto__perfect_sam__takes_its_masks_and_shows_why(load, perfect_sam, tmp_path, capsys):
    outcome = make_generation(load("refine.prompt=auto"), tmp_path)
    quality = outcome.about["quality"]
    assert outcome.decision == "taken"
    assert not keeps_own_masks(tmp_path)
    assert quality["masks taken"] in COMPARED
    assert set(quality["masks"]) == {"none", *COMPARED}
    assert quality["held_out"]["PQ"] == 100.0
    assert quality["masks"]["none"]["PQ"] < 95
    difference, low, high = quality["masks"]["box"]["PQ difference"]
    assert 0 < low <= difference <= high
    said = capsys.readouterr()
    assert f"gen-0001 gets SAM's masks, prompt {quality['masks taken']!r}: +" in said.err
    from s4m_stages.cache import app

    shown = CliRunner().invoke(app, ["info", str(tmp_path)]).output
    assert f"{quality['masks taken']} (taken)" in shown
    assert "PQ by class" in shown


def test_auto__useless_sam__keeps_the_teachers_own_masks(load, useless_sam, tmp_path, capsys):
    outcome = make_generation(load("refine.prompt=auto"), tmp_path)
    assert keeps_own_masks(tmp_path)
    assert outcome.about["quality"]["masks taken"] == "none"
    assert "gets the teacher's own masks: no prompt is better by more than chance" in capsys.readouterr().err


def test_auto__class_that_no_validation_image_shows__is_named(load, perfect_sam, tmp_path, capsys):
    inputs = load(
        "refine.prompt=auto", "data.val=val.json", "data.val_images=val", "refine.ground_truth=train.json"
    )
    make_generation(inputs, tmp_path)
    truth = inputs.held_out
    shown = {a["category_id"] for image in truth.images for a in truth.instances(image.id)}
    absent = [category.name for category in truth.categories if category.id not in shown]
    said = capsys.readouterr().err
    assert all(name in said for name in absent)
    assert ("No validation image shows" in said) == bool(absent)


@pytest.mark.parametrize(
    ("gate", "decision", "own"),
    [("reject", "taken", True), ("warn", "warned", False), ("off", "taken", False)],
)
def test_configured_prompt__useless_sam__leaves_training_no_worse_than_the_gate_allows(
    load, useless_sam, tmp_path, capsys, gate, decision, own
):
    outcome = make_generation(load(f"student.gate={gate}"), tmp_path)
    assert (outcome.decision, keeps_own_masks(tmp_path)) == (decision, own)
    assert ("Warning: gen-0001 gets the teacher's own masks" in capsys.readouterr().err) == own


def test_choice__made_by_one_shard__holds_for_the_others(load, perfect_sam, monkeypatch, tmp_path):
    """The second process would decide otherwise, and does not."""
    inputs = load("refine.prompt=auto")
    generation = begin_generation(inputs, tmp_path, 1, 2)
    assert label_shards(inputs, generation, ShardSpec(1, 2), stop=never)
    made = read_choice(generation)
    assert made is not None and made.prompt is not None
    monkeypatch.setattr(choice, "decide_masks", None)  # calling it would fail
    for index in (1, 2):
        assert (generation.path / f"held-out-{index:04d}.json").exists()
    assert label_shards(inputs, generation, ShardSpec(2, 2), stop=never)
    assert publish_if_complete(inputs, generation).about["quality"]["masks taken"] == made.prompt


def test_choice__another_process_measures__is_waited_for_until_a_signal(load, perfect_sam, tmp_path):
    inputs = load("refine.prompt=auto")
    generation = begin_generation(inputs, tmp_path, 1, 2)
    answers = iter([False, False, True])  # before each of two batches of its own, then while it waits
    with FileLock(generation.path / "held-out-0002.lock", exclusive=True):
        assert not label_shards(inputs, generation, ShardSpec(1, 2), stop=lambda: next(answers, True))
    assert not (generation.path / "held-out-0002.json").exists()
    assert generation.stored_ids().size == 0
    assert label_shards(inputs, generation, ShardSpec(1, 2), stop=never)


def test_find_faults__few_labels_with_nearly_the_same_pq__are_a_collapse():
    before = {"PQ": 7.1, "recall": 4.0, gate.PER_IMAGE: 7.57}
    after = {"PQ": 7.0, "recall": 3.5, gate.PER_IMAGE: 0.19}
    (fault,) = find_faults("gen-0002", after, "gen-0001, which is current,", before, 2.0)
    assert fault == "gen-0002 has 0.19 labels per image, gen-0001, which is current, 7.57: a collapse"
    assert find_faults("gen-0002", before, "gen-0001", before, 2.0) == []


def test_find_faults__half_of_the_recall__is_a_collapse_and_noise_is_none():
    before = {"PQ": 40.0, "recall": 60.0}
    (fault,) = find_faults("gen-0002", {"PQ": 40.0, "recall": 29.0}, "gen-0001", before, 2.0)
    assert "a recall of 29.00, gen-0001 60.00: a collapse" in fault
    assert find_faults("gen-0002", {"recall": 0.2}, "gen-0001", {"recall": 1.0}, 2.0) == []


def test_find_faults__unknown_figures__are_no_reason():
    assert find_faults("gen-0002", {"PQ": None}, "gen-0001", {"PQ": 40.0}, 2.0) == []
    assert find_faults("gen-0002", {"PQ": 1.0, "recall": 1.0}, "gen-0001", {}, 2.0) == []


def test_gate__next_generation_finds_hardly_anything__keeps_the_labels_before(
    load, teacher, tmp_path, capsys
):
    inputs = load("refine.prompt=none")
    assert make_generation(inputs, tmp_path).decision == "taken"
    teacher.limit = 1
    assert make_generation(inputs, tmp_path, number=2).decision == "rejected"
    assert current_number(tmp_path) == 1
    assert "labels per image, gen-0001, which is current," in capsys.readouterr().err


def test_gate__slow_decline__ends_below_the_teachers_own_masks(load, teacher, tmp_path):
    """Each generation may lose a little to the one before, but not to what the teacher began with."""
    student_options = load("refine.prompt=none").options.student
    generation = begin_generation(load("refine.prompt=none"), tmp_path, 1, 1)
    own = {"none": {"PQ": 40.0}}
    publish_with = {"held_out": {"PQ": 38.5, "PQ floor": 40.0}}
    label_shards(load("refine.prompt=none"), generation, ALL, stop=never)
    publish(generation, quality=publish_with)
    later = begin_generation(load("refine.prompt=none"), tmp_path, 2, 1)
    quality = {"held_out": {"PQ": 37.0, "images": 6, "objects": 9}, "masks": own}
    decision, faults = gate.pass_gate(student_options, later, quality, 5.0)
    assert decision == "rejected"
    assert "the teacher's own masks 40.00" in faults and "which is current" not in faults


@pytest.mark.parametrize(
    ("found", "said"), [(0, "no pseudo-label for any of 6 images"), (1, "labels per image")]
)
def test_gate__first_labels_refused__stops_with_a_histogram_and_three_settings(
    load, teacher, tmp_path, found, said, monkeypatch
):
    inputs = load("refine.prompt=none", "refine.min_score=0.985" if found else "refine.min_score=0.995")
    monkeypatch.setattr(gate, "FEW_LABELS", 0.9)  # scenes of some objects, of which only the first is sure
    with pytest.raises(LabelsRefused) as refused:
        make_generation(inputs, tmp_path)
    message = str(refused.value)
    assert said in message
    assert "nothing was published" in message
    assert "0.95 - 1.00" in message
    settings = [line for line in message.splitlines() if line.startswith("  --set ")]
    assert len(settings) == 3
    assert settings[0].startswith("  --set refine.min_score=0.")
    assert current_number(tmp_path) == 0


def test_preview__auto__compares_the_masks(load, perfect_sam, tmp_path, capsys):
    preview_labels(load("refine.prompt=auto"), 1, 2, tmp_path / "preview.png")
    said = capsys.readouterr().out
    assert "Masks on 6 validation images" in said
    assert "A generation would get SAM's masks, prompt " in said
    assert (tmp_path / "preview.png").exists()


# Calibrated acceptance: of each label the mask that is likely better.


@pytest.fixture
def mixed_sam(teacher: Teacher, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers with the truth, or for every second object with nearly nothing, and knows which."""

    def answers(sam, embeddings, candidates, image_ids, **_):
        results = []
        for truth in teacher.truths:
            if len(truth.labels):
                masks = torch.from_numpy(truth.masks).clone()
                masks[1::2] &= torch.arange(masks.shape[1])[:, None] % 8 == 0
                iou = torch.full((len(masks),), 0.95)
                iou[1::2] = 0.4
                results.append(Refined(pack_masks(masks), iou))
        return results

    monkeypatch.setattr(labeler, "refine_masks", answers)


@pytest.fixture
def few_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptance, "MIN_IMAGES", 2)
    monkeypatch.setattr(acceptance, "MIN_INSTANCES", 4)


def test_calibrated__mixed_sam__each_label_uses_its_better_mask(load, mixed_sam, few_are_enough, tmp_path):
    outcome = make_generation(load("refine.prompt=auto", "refine.accept=calibrated"), tmp_path)
    quality = outcome.about["quality"]
    assert outcome.decision == "taken"
    assert quality["masks taken"] == "calibrated"
    assert quality["masks"]["calibrated"]["PQ"] > max(
        quality["masks"][kind]["PQ"] for kind in ("none", "points", "box")
    )
    assert quality["held_out"]["PQ"] == quality["masks"]["calibrated"]["PQ"]
    with CacheReader(Generation(tmp_path, 1)) as reader:
        assert 0 < reader.column("use_raw").sum() < len(reader.column("use_raw"))
        for image_id in reader.image_ids.tolist():
            instances = reader.read(image_id, raw=True).instances
            assert instances.use_raw[1::2].all()  # what SAM spoils
            both = np.where(
                instances.use_raw[:, None], instances.raw_masks.boxes, instances.refined_masks.boxes
            )
            assert np.array_equal(instances.masks.boxes, both)


@pytest.mark.parametrize("prompt", ["auto", "box"])
def test_ignore_below__labels_of_another_class__are_ignored_and_do_not_count(
    prompt, load, teacher, mixed_sam, few_are_enough, tmp_path
):
    teacher.misnames = True
    settings = (f"refine.prompt={prompt}", "refine.accept=calibrated", "refine.ignore_below=0.5")
    outcome = make_generation(load(*settings, "refine.ground_truth=train.json"), tmp_path)
    quality, count = outcome.about["quality"], 0
    with CacheReader(Generation(tmp_path, 1)) as reader:
        for image_id in reader.image_ids.tolist():
            instances = reader.read(image_id).instances
            assert instances.ignored.tolist() == [place % 2 == 1 for place in range(len(instances))]
            count += len(instances.kept)
        total = len(reader.column("use_raw"))
    assert 0 < count < total
    assert outcome.about["statistics"][PER_IMAGE] == round(count / 6, 3)
    # The validation images are these images with their truth; each was left out in fitting.
    assert quality["held_out"]["instances"] == quality["instances measured"] == count
    assert quality["held_out"]["CA"] == quality["CA after"] == 100.0
    assert quality["CA before"] == pytest.approx(100 * count / total, abs=0.01)
    assert f"{total - count} of their {total} labels are ignored" in quality["masks taken because"]


@pytest.mark.parametrize("prompt", ["auto", "box"])
def test_calibrated__useless_sam__keeps_the_teachers_own(prompt, load, useless_sam, few_are_enough, tmp_path):
    make_generation(load(f"refine.prompt={prompt}", "refine.accept=calibrated"), tmp_path)
    assert keeps_own_masks(tmp_path)


def test_calibrated__perfect_sam__takes_its_masks(load, perfect_sam, few_are_enough, tmp_path):
    make_generation(load("refine.prompt=box", "refine.accept=calibrated"), tmp_path)
    with CacheReader(Generation(tmp_path, 1)) as reader:
        assert not reader.column("use_raw").any()
    assert not keeps_own_masks(tmp_path)


def test_calibrated__too_few_validation_labels__falls_back_and_says_how_many(load, mixed_sam, tmp_path):
    outcome = make_generation(load("refine.prompt=auto", "refine.accept=calibrated"), tmp_path)
    assert "at least 50 with an object, on 10 images" in outcome.about["quality"]["masks taken because"]
    with CacheReader(Generation(tmp_path, 1)) as reader:
        assert not reader.column("use_raw").any()
