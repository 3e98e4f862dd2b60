"""Refine as training calls it: ranks take shards in turn, validation images first, the gate at the end."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cache.errors import CacheError
from cache.generation import Generation
from cache.generations import begin, current_number, publish
from cache.sharding import ShardSpec
from cache.verify import verify
from s4m_pipeline.options.experiment import load_experiment
from s4m_pipeline.refine.gate import is_rejected
from s4m_pipeline.refine.inputs import RefineInputs, load_inputs
from s4m_pipeline.refine.session import begin_generation, label_shard_of, publish_if_complete
from s4m_pipeline.sam.loader import NANO_DIR
from test_refine.conftest import assert_same_labels, write_untrained_teacher

NO_SAM = ("refine.prompt=none",)


@pytest.fixture(scope="module")
def load(student_config: Path, experiment: Path):
    def load_with(*overrides: str) -> RefineInputs:
        options, parts = load_experiment(student_config, overrides)
        return load_inputs(options, parts, experiment / "weights.safetensors")

    return load_with


def never() -> bool:
    return False


def run(inputs: RefineInputs, root: Path, number: int = 1, num_shards: int = 1, ranks: int = 1):
    """What training does: rank r labels shards r + 1, r + 1 + ranks, ...; rank 0 publishes."""
    generation = begin_generation(inputs, root, number, num_shards)
    for rank in range(ranks):
        for index in range(rank, num_shards, ranks):
            assert label_shard_of(inputs, generation, ShardSpec(index + 1, num_shards), stop=never)
    return publish_if_complete(inputs, generation)


def test_session__three_shards_on_two_ranks__give_labels_and_figures_of_one(load, tmp_path):
    inputs = load()
    whole = run(inputs, tmp_path / "whole")
    shared = run(inputs, tmp_path / "shared", num_shards=3, ranks=2)
    assert (whole.word, shared.word) == ("taken", "taken")
    assert_same_labels(tmp_path / "whole", tmp_path / "shared")
    held_out = whole.about["quality"]["held_out"]
    assert held_out == shared.about["quality"]["held_out"]
    assert held_out["images"] == 2
    assert held_out["objects"] > 0
    assert held_out["instances"] > 0


def test_session__asked_again_once_published__answers_alike(load, tmp_path):
    inputs = load(*NO_SAM)
    first = run(inputs, tmp_path)
    assert run(inputs, tmp_path) == first


def test_session__without_a_student__measures_no_validation_images(load, experiment, tmp_path):
    options, parts = load_experiment(experiment / "refine_me.py", list(NO_SAM))
    inputs = load_inputs(options, parts, experiment / "weights.safetensors")
    assert inputs.held_out is None
    assert "held_out" not in run(inputs, tmp_path).about["quality"]


def test_session__a_shard_without_its_validation_images__is_not_published(load, tmp_path, capsys):
    inputs = load(*NO_SAM)
    generation = begin_generation(inputs, tmp_path, 1, 2)
    label_shard_of(inputs, generation, ShardSpec(1, 2), stop=never)
    label_shard_of(inputs, generation, ShardSpec(2, 2), stop=never)
    (generation.path / "held-out-0002.json").unlink()
    assert publish_if_complete(inputs, generation).word == "incomplete"
    assert "2/2 (validation images)" in capsys.readouterr().err
    assert label_shard_of(inputs, generation, ShardSpec(2, 2), stop=never)
    assert publish_if_complete(inputs, generation).word == "taken"


@pytest.mark.parametrize("batches", [0, 1, 2])
def test_session__stopped_after_some_batches__goes_on_to_the_same_end(load, tmp_path, batches):
    inputs = load(*NO_SAM, "refine.batch_size=2")
    generation = begin_generation(inputs, tmp_path / "stopped", 1, 1)
    answers = iter([False] * batches)
    assert not label_shard_of(inputs, generation, ShardSpec(1, 1), stop=lambda: next(answers, True))
    assert publish_if_complete(inputs, generation).word == "incomplete"
    stopped, quiet = run(inputs, tmp_path / "stopped"), run(inputs, tmp_path / "quiet")
    assert stopped.about["quality"] == quiet.about["quality"]
    assert_same_labels(tmp_path / "stopped", tmp_path / "quiet")


def publish_with_pq(inputs: RefineInputs, root: Path, pq: float) -> None:
    """A first generation of the same labels that claims to be that good."""
    generation = begin_generation(inputs, root, 1, 1)
    label_shard_of(inputs, generation, ShardSpec(1, 1), stop=never)
    publish(generation, quality={"held_out": {"PQ": pq}})


def test_session__worse_than_the_current_generation__is_rejected_every_time(load, tmp_path, capsys):
    inputs = load(*NO_SAM)
    publish_with_pq(inputs, tmp_path, 90.0)
    outcome = run(inputs, tmp_path, number=2)
    assert outcome.word == "rejected"
    assert outcome.about["quality"]["held_out"]["PQ before"] == 90.0
    pq = outcome.about["quality"]["held_out"]["PQ"]
    assert f"gen-0002 has a PQ of {pq:.2f}, gen-0001, which is current, 90.00" in capsys.readouterr().err
    assert current_number(tmp_path) == 1
    assert is_rejected(Generation(tmp_path, 2))
    assert run(inputs, tmp_path, number=2) == outcome
    assert run(load(*NO_SAM, "student.gate_drop=100"), tmp_path, number=3).word == "taken"
    assert current_number(tmp_path) == 3


@pytest.mark.parametrize(
    ("gate", "word", "says"), [("warn", "warned", "Warning: on the validation"), ("off", "taken", "")]
)
def test_session__worse_with_a_lenient_gate__is_published(load, tmp_path, capsys, gate, word, says):
    inputs = load(*NO_SAM, f"student.gate={gate}")
    publish_with_pq(inputs, tmp_path, 90.0)
    assert run(inputs, tmp_path, number=2).word == word
    assert says in capsys.readouterr().err
    assert current_number(tmp_path) == 2


def test_session__no_pseudo_label_but_earlier_labels__is_rejected(load, tmp_path, capsys):
    run(load(*NO_SAM), tmp_path)
    inputs = load(*NO_SAM, "refine.min_score=0.99", "student.gate=off")
    assert run(inputs, tmp_path, number=2).word == "rejected"
    assert "readers keep gen-0001" in (said := capsys.readouterr().err)
    assert "no pseudo-label for any of 6 images" in said
    assert is_rejected(Generation(tmp_path, 2))


def test_session__after_a_generation_without_figures__is_taken(load, tmp_path):
    inputs = load(*NO_SAM)
    generation = begin_generation(inputs, tmp_path, 1, 1)
    label_shard_of(inputs, generation, ShardSpec(1, 1), stop=never)
    publish(generation)
    outcome = run(inputs, tmp_path, number=2)
    assert outcome.word == "taken"
    assert outcome.about["statistics"]["agreement with the generation before"] == 100.0


def test_session__other_weights_same_inputs__make_the_next_generation(load, experiment, tmp_path):
    inputs = load(*NO_SAM, "student.gate=off")
    run(inputs, tmp_path)
    write_untrained_teacher(experiment / "refine_me.py", tmp_path / "other.safetensors", seed=1)
    outcome = run(inputs.with_weights(tmp_path / "other.safetensors"), tmp_path, number=2)
    assert outcome.about["statistics"]["agreement with the generation before"] < 100
    assert begin(tmp_path, Generation(tmp_path, 2).spec, 2).published() is not None


def truncate(data: bytes) -> bytes:
    return data[: len(data) // 2]


def change_a_digit(data: bytes) -> bytes:
    """The first count that a figure is made of."""
    return re.sub(rb"(?<=\[\[)\d", lambda digit: b"%d" % ((int(digit[0]) + 1) % 10), data, count=1)


@pytest.mark.parametrize("damage", [truncate, change_a_digit])
@pytest.mark.parametrize("name", ["shard-0001.json", "held-out-0001.json"])
def test_session__damaged_note_of_a_shard__is_made_again(
    load, tmp_path, name: str, damage: Callable[[bytes], bytes]
):
    inputs = load(*NO_SAM, "refine.ground_truth=train.json")
    generation = begin_generation(inputs, tmp_path / "damaged", 1, 1)
    assert label_shard_of(inputs, generation, ShardSpec(1, 1), stop=never)
    note = generation.path / name
    whole = note.read_bytes()
    note.write_bytes(damage(whole))
    assert note.read_bytes() != whole
    assert [found.path for found in verify(generation).damages] == [note]
    damaged, quiet = run(inputs, tmp_path / "damaged"), run(inputs, tmp_path / "quiet")
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
def test_session__begun_with_another_teacher_or_image_list__is_refused(
    load, experiment, tmp_path, change, says: str
):
    begin_generation(load(*NO_SAM), tmp_path / "cache", 1, 1)
    inputs = change(load, tmp_path, experiment / "refine_me.py")
    with pytest.raises(CacheError, match=rf"begun with other settings(.|\n)*{says}(.|\n)*--generation 2"):
        begin_generation(inputs, tmp_path / "cache", 1, 1)


def test_session__begun_with_other_bytes_of_sam__is_refused(load, tmp_path):
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
