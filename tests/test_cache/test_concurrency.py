"""Several processes, and any order of events."""

import multiprocessing
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from s4m_cache.errors import CacheError
from s4m_cache.generations import begin, collect_garbage, current, generations, publish
from s4m_cache.reader import CacheReader
from test_cache.samples import assert_same_labels, fill, make_labels, make_published, make_spec


def _label_shard(root, index):
    generation = begin(root, make_spec(range(40), num_shards=4))
    fill(generation, f"{index}/4", max_images=3)
    if not generation.missing():
        publish(generation)


def test_writers__four_processes_at_once_begin_write_and_publish_one_generation(tmp_path):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_label_shard, args=(tmp_path, index)) for index in (1, 2, 3, 4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()

    assert [writer.exitcode for writer in writers] == [0] * 4
    with CacheReader.current(tmp_path) as reader:
        assert reader.image_ids.tolist() == list(range(40))
        for labels in reader.read_many(range(40), raw=True):
            assert_same_labels(labels, make_labels(labels.image_id))


def _read_while_refreshed(root, stop, failures):
    while not stop.is_set():
        try:
            with CacheReader.current(root) as reader:
                for image_id in reader.image_ids.tolist():
                    assert_same_labels(reader.read(image_id, raw=True), make_labels(image_id))
        except Exception as error:
            failures.put(repr(error))
            return


def test_readers__while_generations_are_published_and_collected_always_find_a_whole_one(tmp_path):
    make_published(tmp_path, range(3))
    context = multiprocessing.get_context("fork")
    stop, failures = context.Event(), context.SimpleQueue()
    readers = [
        context.Process(target=_read_while_refreshed, args=(tmp_path, stop, failures)) for _ in range(2)
    ]
    for reader in readers:
        reader.start()
    for number in range(2, 8):
        make_published(tmp_path, range(3), number=number)
        collect_garbage(tmp_path)
    stop.set()
    for reader in readers:
        reader.join()

    assert failures.empty(), failures.get()


class Generations(RuleBasedStateMachine):
    """Any order of begin, fill, publish, pin, unpin and collect, against a model of three small facts."""

    readers = Bundle("readers")

    def __init__(self):
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.existing, self.filled, self.current = set(), set(), 0
        self.pinned = []

    @rule(number=st.integers(1, 4))
    def begin(self, number):
        if number < self.current and number not in self.existing:
            with pytest.raises(CacheError, match="not replaced by earlier ones"):
                begin(self.root, make_spec([1, 2]), number)
        else:
            begin(self.root, make_spec([1, 2]), number)
            self.existing.add(number)

    @rule(number=st.integers(1, 4))
    def fill(self, number):
        if number in self.existing:
            fill(begin(self.root, make_spec([1, 2]), number))
            self.filled.add(number)

    @rule(number=st.integers(1, 4))
    def publish(self, number):
        if number not in self.existing:
            return
        generation = begin(self.root, make_spec([1, 2]), number)
        if number not in self.filled or number < self.current:
            with pytest.raises(CacheError):
                publish(generation)
        else:
            publish(generation)
            self.current = number

    @rule(target=readers)
    def pin(self):
        if not self.current:
            with pytest.raises(CacheError, match="no generation is published"):
                CacheReader.current(self.root)
            return None
        reader = CacheReader.current(self.root)
        assert reader.generation.number == self.current
        self.pinned.append(reader)
        return reader

    @rule(reader=consumes(readers))
    def unpin(self, reader):
        if reader is not None:
            assert_same_labels(reader.read(2, raw=True), make_labels(2))
            reader.close()
            self.pinned.remove(reader)

    @rule(keep=st.integers(1, 2))
    def collect(self, keep):
        collect_garbage(self.root, keep)
        past = sorted(number for number in self.existing if number < self.current)
        held = {reader.generation.number for reader in self.pinned}
        gone = set(past[: max(len(past) - (keep - 1), 0)]) - held
        self.existing -= gone
        self.filled -= gone

    @invariant()
    def disk_agrees_with_the_model(self):
        assert {generation.number for generation in generations(self.root)} == self.existing
        if self.current:
            assert current(self.root).number == self.current

    def teardown(self):
        for reader in self.pinned:
            reader.close()
        shutil.rmtree(self.root)


TestGenerations = Generations.TestCase
TestGenerations.settings = settings(max_examples=15, stateful_step_count=12, deadline=None)
