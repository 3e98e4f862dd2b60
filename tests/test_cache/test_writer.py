import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from s4m_cache.errors import CacheError, LockedError
from s4m_cache.generations import begin, publish
from s4m_cache.reader import CacheReader
from s4m_cache.sharding import ShardSpec
from s4m_cache.writer import ShardWriter
from test_cache.samples import assert_same_labels, fill, make_labels, make_published, make_spec

WHOLE = ShardSpec(1, 1)


@pytest.fixture
def generation(tmp_path):
    return begin(tmp_path, make_spec())


def test_writer__labels_come_back(generation):
    fill(generation)

    with CacheReader(generation) as reader:
        assert reader.image_ids.tolist() == list(range(12))
        for image_id in range(12):
            assert_same_labels(reader.read(image_id, raw=True), make_labels(image_id))


@pytest.mark.parametrize("bounds, parts", [({"max_images": 5}, 3), ({"max_bytes": 1}, 12), ({}, 1)])
def test_writer__parts_are_bounded_in_images_and_bytes(generation, bounds, parts):
    with ShardWriter(generation, WHOLE, **bounds) as writer:
        for image_id in range(12):
            writer.append(make_labels(image_id, count=1))

    assert len(generation.parts()) == parts
    assert next(path.name for path in generation.part_paths()) == "part-0001-000001"


def test_writer__exception_on_its_way_keeps_committed_parts_only(generation):
    with pytest.raises(ZeroDivisionError), ShardWriter(generation, WHOLE, max_images=5) as writer:
        for image_id in range(7):
            writer.append(make_labels(image_id))
        raise ZeroDivisionError

    with ShardWriter(generation, WHOLE) as writer:
        assert writer.pending.tolist() == list(range(5, 12))
        assert writer.num_stored == 5


def test_writer__images_without_instances_alone_make_a_part(generation):
    with ShardWriter(generation, WHOLE) as writer:
        for image_id in (2, 5):
            writer.append(make_labels(image_id, count=0))

    with CacheReader(generation) as reader:
        labels = reader.read(5, raw=True)
    assert len(labels.instances) == 0
    assert labels.dense().shape == (0, 40, 56)


def test_writer__thousands_of_instances_in_an_image_come_back(generation):
    with ShardWriter(generation, WHOLE) as writer:
        writer.append(make_labels(7, count=3000))

    with CacheReader(generation) as reader:
        assert_same_labels(reader.read(7, raw=True), make_labels(7, count=3000))


@pytest.mark.parametrize("image_id", [3, 99], ids=["stored", "foreign"])
def test_append__image_not_pending_is_refused(generation, image_id):
    with ShardWriter(generation, WHOLE) as writer:
        writer.append(make_labels(3))
        with pytest.raises(CacheError, match=f"image {image_id} is not pending in shard 1/1"):
            writer.append(make_labels(image_id))


def test_writer__other_shard_count_is_refused(generation):
    with pytest.raises(CacheError, match="divided into 1 shards"):
        ShardWriter(generation, ShardSpec(3, 8))


def test_writer__second_on_the_same_shard_is_refused_naming_host_and_process(generation):
    with ShardWriter(generation, WHOLE), pytest.raises(LockedError) as error:
        ShardWriter(generation, WHOLE)

    assert f"host {socket.gethostname()}, process {os.getpid()}" in str(error.value)


WRITE_AND_WAIT = """
import sys, time
from pathlib import Path
from s4m_cache.generation import Generation
from s4m_cache.sharding import ShardSpec
from s4m_cache.writer import ShardWriter
from test_cache.samples import make_labels
with ShardWriter(Generation(Path(sys.argv[1]), 1), ShardSpec(1, 1), max_images=2) as writer:
    for image_id in range(3):
        writer.append(make_labels(image_id))
    (writer.generation.path / "parts" / ".tmp-part-0001-000002-1-abc").mkdir()
    print("waiting", flush=True)
    time.sleep(60)
"""


def test_writer__dead_owner_is_taken_over(generation):
    root = Path(__file__).parents[2]
    owner = subprocess.Popen(
        [sys.executable, "-c", WRITE_AND_WAIT, str(generation.root)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}"},
    )
    with owner:
        assert owner.stdout.readline() == b"waiting\n"
        with pytest.raises(LockedError, match=f"process {owner.pid}"):
            ShardWriter(generation, WHOLE)
        owner.send_signal(signal.SIGKILL)
        owner.wait()

    with ShardWriter(generation, WHOLE) as writer:
        assert writer.pending.tolist() == list(range(2, 12))
        assert (writer.num_stored, writer.num_discarded) == (2, 1)
    assert generation.leftovers() == []


def test_writer__forked_child_does_not_hold_the_shard(generation):
    writer = ShardWriter(generation, WHOLE)
    forked, in_child = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(in_child, b"x")
        signal.pause()
    try:
        os.read(forked, 1)
        writer.close()
        ShardWriter(generation, WHOLE).close()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_writer__four_shards_make_the_same_labels_as_one(tmp_path):
    whole = make_published(tmp_path / "whole")
    shared = begin(tmp_path / "shared", make_spec(num_shards=4))
    for index in (3, 1, 4, 2):
        fill(shared, f"{index}/4", max_images=2)
    publish(shared)

    with CacheReader(whole) as one, CacheReader(shared) as other:
        np.testing.assert_array_equal(one.image_ids, other.image_ids)
        for image_id in one.image_ids.tolist():
            assert_same_labels(one.read(image_id, raw=True), other.read(image_id, raw=True))
