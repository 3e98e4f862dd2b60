"""Refine as training calls it: ranks take shards in turn, validation images first, the gate at the end."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from s4m_cache.errors import CacheError
from s4m_cache.fingerprint import file_hash
from s4m_cache.generation import Generation, GenerationSpec
from s4m_cache.generations import begin, current_number, made_with, publish
from s4m_cache.sharding import ShardSpec
from s4m_cache.verify import verify
from s4m_pipeline.config.sam_files import NANO_DIR
from s4m_pipeline.experiment import image_files
from s4m_pipeline.experiment.image_files import image_changes
from s4m_pipeline.refine.fingerprint import VALIDATION, explain_labels
from s4m_pipeline.refine.gate import is_rejected
from s4m_pipeline.refine.generation import begin_generation, label_shards
from s4m_pipeline.refine.inputs import RefineInputs
from s4m_pipeline.refine.publish import publish_if_complete
from test_refine.conftest import (
    assert_same_labels,
    inputs_of,
    make_generation,
    never,
    write_untrained_teacher,
)

NO_SAM = ("refine.prompt=none",)


@pytest.fixture(scope="module")
def load(student_config: Path, experiment: Path):
    return partial(inputs_of, student_config, experiment)


def test_generation__three_shards_on_two_ranks__give_labels_and_figures_of_one(load, tmp_path):
    inputs = load()
    whole = make_generation(inputs, tmp_path / "whole")
    shared = make_generation(inputs, tmp_path / "shared", num_shards=3, ranks=2)
    assert (whole.decision, shared.decision) == ("taken", "taken")
    assert_same_labels(tmp_path / "whole", tmp_path / "shared")
    held_out = whole.about["quality"]["held_out"]
    assert held_out == shared.about["quality"]["held_out"]
    assert held_out["images"] == 2
    assert held_out["objects"] > 0
    assert held_out["instances"] > 0


def test_generation__asked_again_once_published__answers_alike(load, tmp_path):
    inputs = load(*NO_SAM)
    first = make_generation(inputs, tmp_path)
    assert make_generation(inputs, tmp_path) == first


def test_generation__without_a_student__measures_no_validation_images(load, experiment, tmp_path):
    inputs = inputs_of(experiment / "refine_me.py", experiment, *NO_SAM)
    assert inputs.held_out is None
    assert "held_out" not in make_generation(inputs, tmp_path).about["quality"]


def test_generation__a_shard_without_its_validation_images__is_not_published(load, tmp_path, capsys):
    inputs = load(*NO_SAM)
    generation = begin_generation(inputs, tmp_path, 1, 2)
    label_shards(inputs, generation, ShardSpec(1, 2), stop=never)
    label_shards(inputs, generation, ShardSpec(2, 2), stop=never)
    (generation.path / "held-out-0002.json").unlink()
    assert publish_if_complete(inputs, generation).decision == "incomplete"
    assert "2/2 (validation images)" in capsys.readouterr().err
    assert label_shards(inputs, generation, ShardSpec(2, 2), stop=never)
    assert publish_if_complete(inputs, generation).decision == "taken"


@pytest.mark.parametrize("batches", [0, 1, 2])
def test_generation__stopped_after_some_batches__resumes_to_the_same_end(load, tmp_path, batches):
    inputs = load(*NO_SAM, "refine.batch_size=2")
    generation = begin_generation(inputs, tmp_path / "stopped", 1, 1)
    answers = iter([False] * batches)
    assert not label_shards(inputs, generation, ShardSpec(1, 1), stop=lambda: next(answers, True))
    assert publish_if_complete(inputs, generation).decision == "incomplete"
    stopped = make_generation(inputs, tmp_path / "stopped")
    quiet = make_generation(inputs, tmp_path / "quiet")
    assert stopped.about["quality"] == quiet.about["quality"]
    assert_same_labels(tmp_path / "stopped", tmp_path / "quiet")


def publish_with_pq(inputs: RefineInputs, root: Path, pq: float) -> None:
    """A first generation of the same labels that claims to be that good."""
    generation = begin_generation(inputs, root, 1, 1)
    label_shards(inputs, generation, ShardSpec(1, 1), stop=never)
    publish(generation, quality={"held_out": {"PQ": pq}})


def test_generation__worse_than_the_current_generation__is_rejected_every_time(load, tmp_path, capsys):
    inputs = load(*NO_SAM)
    publish_with_pq(inputs, tmp_path, 90.0)
    outcome = make_generation(inputs, tmp_path, number=2)
    assert outcome.decision == "rejected"
    assert outcome.about["quality"]["held_out"]["PQ before"] == 90.0
    pq = outcome.about["quality"]["held_out"]["PQ"]
    assert f"gen-0002 has a PQ of {pq:.2f}, gen-0001, which is current, 90.00" in capsys.readouterr().err
    assert current_number(tmp_path) == 1
    assert is_rejected(Generation(tmp_path, 2))
    assert make_generation(inputs, tmp_path, number=2) == outcome
    assert make_generation(load(*NO_SAM, "student.gate_drop=100"), tmp_path, number=3).decision == "taken"
    assert current_number(tmp_path) == 3


@pytest.mark.parametrize(
    ("gate", "decision", "says"), [("warn", "warned", "Warning: on the validation"), ("off", "taken", "")]
)
def test_generation__worse_with_a_lenient_gate__is_published(load, tmp_path, capsys, gate, decision, says):
    inputs = load(*NO_SAM, f"student.gate={gate}")
    publish_with_pq(inputs, tmp_path, 90.0)
    assert make_generation(inputs, tmp_path, number=2).decision == decision
    assert says in capsys.readouterr().err
    assert current_number(tmp_path) == 2


def test_generation__no_pseudo_label_but_earlier_labels__is_rejected(load, tmp_path, capsys):
    make_generation(load(*NO_SAM), tmp_path)
    inputs = load(*NO_SAM, "refine.min_score=0.99", "student.gate=off")
    assert make_generation(inputs, tmp_path, number=2).decision == "rejected"
    assert "readers keep gen-0001" in (said := capsys.readouterr().err)
    assert "no pseudo-label for any of 6 images" in said
    assert is_rejected(Generation(tmp_path, 2))


def test_generation__after_a_generation_without_figures__is_taken(load, tmp_path):
    inputs = load(*NO_SAM)
    generation = begin_generation(inputs, tmp_path, 1, 1)
    label_shards(inputs, generation, ShardSpec(1, 1), stop=never)
    publish(generation)
    outcome = make_generation(inputs, tmp_path, number=2)
    assert outcome.decision == "taken"
    assert outcome.about["statistics"]["agreement with the generation before"] == 100.0


def test_generation__other_weights_same_inputs__make_the_next_generation(load, experiment, tmp_path):
    inputs = load(*NO_SAM, "student.gate=off")
    make_generation(inputs, tmp_path)
    write_untrained_teacher(experiment / "refine_me.py", tmp_path / "other.safetensors", seed=1)
    outcome = make_generation(inputs.with_weights(tmp_path / "other.safetensors"), tmp_path, number=2)
    assert outcome.about["statistics"]["agreement with the generation before"] < 100
    assert begin(tmp_path, Generation(tmp_path, 2).spec, 2).published() is not None


def truncate(data: bytes) -> bytes:
    return data[: len(data) // 2]


def change_a_digit(data: bytes) -> bytes:
    """The first count that a figure is made of."""
    return re.sub(rb"(?<=\[\[)\d", lambda digit: b"%d" % ((int(digit[0]) + 1) % 10), data, count=1)


@pytest.mark.parametrize("damage", [truncate, change_a_digit])
@pytest.mark.parametrize("name", ["shard-0001.json", "held-out-0001.json"])
def test_generation__damaged_note_of_a_shard__is_made_again(
    load, tmp_path, name: str, damage: Callable[[bytes], bytes]
):
    inputs = load(*NO_SAM, "refine.ground_truth=train.json")
    generation = begin_generation(inputs, tmp_path / "damaged", 1, 1)
    assert label_shards(inputs, generation, ShardSpec(1, 1), stop=never)
    note = generation.path / name
    whole = note.read_bytes()
    note.write_bytes(damage(whole))
    assert note.read_bytes() != whole
    assert [found.path for found in verify(generation).damages] == [note]
    damaged = make_generation(inputs, tmp_path / "damaged")
    quiet = make_generation(inputs, tmp_path / "quiet")
    assert damaged.about["quality"] == quiet.about["quality"]
    assert_same_labels(tmp_path / "damaged", tmp_path / "quiet")


def with_another_teacher(load, folder: Path, config: Path) -> RefineInputs:
    write_untrained_teacher(config, folder / "other.safetensors", seed=1)
    return load(*NO_SAM).with_weights(folder / "other.safetensors")


def with_fewer_images(load, folder: Path, config: Path) -> RefineInputs:
    document = json.loads((config.parent / "data/unlabeled.json").read_text())
    document["images"].pop()
    (folder / "fewer.json").write_text(json.dumps(document))
    return load(*NO_SAM, f"data.unlabeled={folder / 'fewer.json'}")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (with_another_teacher, r"  teacher: stored 'sha256:\w+', given 'sha256:\w+'\n"),
        (with_fewer_images, "  image_ids: stored 6 entries, given 5"),
    ],
)
def test_generation__begun_with_another_teacher_or_image_list__is_refused(
    load, experiment, tmp_path, change, says: str
):
    begin_generation(load(*NO_SAM), tmp_path / "cache", 1, 1)
    inputs = change(load, tmp_path, experiment / "refine_me.py")
    with pytest.raises(CacheError, match=rf"begun with different settings(.|\n)*{says}(.|\n)*--generation 2"):
        begin_generation(inputs, tmp_path / "cache", 1, 1)


def begin_as(inputs: RefineInputs, root: Path, *without: str) -> Generation:
    """A generation whose fingerprint lacks some keys, as an earlier version began it."""
    made = {key: value for key, value in inputs.fingerprint().items() if key not in without}
    spec = GenerationSpec(
        image_ids=[image.id for image in inputs.unlabeled.images],
        classes=inputs.labeled.class_names,
        category_ids=[category.id for category in inputs.labeled.categories],
        num_shards=1,
        fingerprint=made,
    )
    return begin(root, spec, 1)


def test_generation__begun_before_a_setting_existed__had_its_default(load, tmp_path):
    begun = begin_as(load(), tmp_path, "accept", "ignore_below", VALIDATION)
    assert begin_generation(load(), tmp_path, 1, 1) == begun
    assert made_with(tmp_path, load().fingerprint(), explain_labels) == begun
    now = load("refine.accept=calibrated", "refine.ignore_below=0.2")
    with pytest.raises(CacheError) as refused:
        begin_generation(now, tmp_path, 1, 1)
    differences = [line for line in str(refused.value).splitlines() if line.startswith("  ")]
    assert differences == [
        "  accept: stored 'all', given 'calibrated'",
        "  ignore_below: stored 0.0, given 0.2",
    ]
    assert made_with(tmp_path, now.fingerprint(), explain_labels) is None


OTHER_VALIDATION = ("data.val=train.json", "data.val_images=train")


@pytest.mark.parametrize(
    ("overrides", "depends"),
    [
        ((), True),  # student.gate is reject
        (("student.gate=warn",), False),
        (("student.gate=off", "refine.prompt=auto"), True),
        (("student.gate=off", "refine.accept=calibrated"), True),
        (NO_SAM, False),
    ],
)
def test_generation__of_other_validation_images__is_refused_if_they_decide(
    load, tmp_path, overrides: tuple[str, ...], depends: bool
):
    begun = begin_generation(load(*overrides), tmp_path, 1, 1)
    assert (VALIDATION in begun.spec.fingerprint) == depends
    assert begin_generation(load(*overrides, "student.gate=off"), tmp_path, 1, 1) == begun
    other = load(*overrides, *OTHER_VALIDATION)
    if depends:
        with pytest.raises(CacheError, match=r"validation images: stored 'sha256:\w+', given 'sha256:\w+'\n"):
            begin_generation(other, tmp_path, 1, 1)
    else:
        assert begin_generation(other, tmp_path, 1, 1) == begun


def test_generation__begun_with_other_bytes_of_sam__is_refused(load, tmp_path):
    for file in (NANO_DIR / "nano.yaml", NANO_DIR / "nano.safetensors"):
        shutil.copy(file, tmp_path)
    weights = tmp_path / "nano.safetensors"
    begin_generation(load(f"sam.model={weights}"), tmp_path / "cache", 1, 1)
    data = bytearray(weights.read_bytes())
    data[-4] ^= 1  # the lowest bit of the last number
    weights.write_bytes(data)
    with pytest.raises(CacheError) as refused:
        begin_generation(load(f"sam.model={weights}"), tmp_path / "cache", 1, 1)
    differences = [line for line in str(refused.value).splitlines() if line.startswith("  ")]
    assert len(differences) == 1
    assert re.fullmatch(r"  sam weights: stored 'sha256:\w{16}', given 'sha256:\w{16}'", differences[0])


def test_generation__two_shards__read_each_image_once_and_notice_a_replaced_one(load, tmp_path, monkeypatch):
    inputs = load(*NO_SAM)
    folder = tmp_path / "photos"
    shutil.copytree(inputs.unlabeled.images[0].path.parent, folder)
    images = tuple(replace(image, path=folder / image.path.name) for image in inputs.unlabeled.images)
    inputs = replace(inputs, unlabeled=replace(inputs.unlabeled, images=images))
    shards, read = [ShardSpec(1, 2), ShardSpec(2, 2)], []
    monkeypatch.setattr(image_files, "file_hash", lambda path: read.append(path) or file_hash(path))
    for shard in shards[::-1]:
        generation = begin_generation(inputs, tmp_path / "cache", 1, 2, shard)
        label_shards(inputs, generation, shard, stop=never)
    assert sorted(read) == sorted(image.path for image in images)
    images[1].path.write_bytes(b"replaced")
    assert image_changes(generation.path) == [f"image changed: {images[1].path}"]
    for unharmed in (shards[0], ShardSpec(3, 3)):  # the second has none of the two shards
        begin_generation(inputs, tmp_path / "cache", 1, 2, unharmed)
    for part in (shards[1], ShardSpec(1, 1)):
        with pytest.raises(CacheError, match=rf"other images:\n  image changed: {images[1].path}"):
            begin_generation(inputs, tmp_path / "cache", 1, 2, part)
