import shutil
from unittest.mock import Mock

import numpy as np
import pytest

from s4m_cache import sealed
from s4m_cache.errors import CacheError, DamagedError, LockedError
from s4m_cache.generations import CURRENT, begin, current, publish
from s4m_cache.reader import CacheReader
from s4m_cache.sharding import ShardSpec
from s4m_cache.verify import repair, restore_current, verify
from s4m_cache.writer import ShardWriter
from test_cache.samples import assert_same_labels, fill, make_labels, make_published, make_spec

FILES = [
    "MANIFEST.json",
    "zarr.json",
    "bbox/zarr.json",
    "score/c.0",
    "image_hw/c.0.0",
    "bits/c.0",
    "raw_bits/c.0",
]


@pytest.fixture(scope="module")
def master(tmp_path_factory):
    """A published generation of 12 images in parts of 5, 5 and 2."""
    return make_published(tmp_path_factory.mktemp("master") / "cache")


@pytest.fixture
def generation(master, tmp_path):
    shutil.copytree(master.root, tmp_path / "cache")
    return current(tmp_path / "cache")


def flip(path, bit):
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << (bit % 8)
    path.write_bytes(data)


def read_everything(generation):
    with CacheReader.current(generation.root) as reader:
        for image_id in generation.image_ids.tolist():
            assert_same_labels(reader.read(image_id, raw=True), make_labels(image_id))


def test_verify__whole_generation_is_sound(generation):
    found = verify(generation)

    assert found.sound
    assert found.intact_ids.tolist() == list(range(12))
    read_everything(generation)


@pytest.mark.parametrize("name", FILES)
def test_verify__any_flipped_bit_is_found_and_never_read_as_labels(generation, name):
    path = generation.path / "parts/part-0001-000002" / name
    num_bits = path.stat().st_size * 8
    for bit in np.random.default_rng(0).choice(num_bits, 12, replace=False).tolist():
        flip(path, bit)

        assert not verify(generation).sound
        try:
            read_everything(generation)  # bytes that no label depends on may be wrong
        except DamagedError as error:
            assert "part-0001-000002" in str(error)
            assert "s4m cache repair" in str(error)
        flip(path, bit)
    assert verify(generation).sound


@pytest.mark.parametrize("fault", ["missing", "truncated", "empty"])
@pytest.mark.parametrize("name", FILES)
def test_reader__missing_truncated_or_empty_file_is_found_at_open(generation, name, fault):
    path = generation.path / "parts/part-0001-000002" / name
    if fault == "missing":
        path.unlink()
    else:
        path.write_bytes(b"" if fault == "empty" else path.read_bytes()[:-1])

    with pytest.raises(DamagedError) as error:
        CacheReader.current(generation.root)

    assert "part-0001-000002" in str(error.value)
    assert error.value.image_ids == (() if name == "MANIFEST.json" else (5, 6, 7, 8, 9))
    with pytest.raises(DamagedError):
        ShardWriter(generation, ShardSpec(1, 1))
    assert not verify(generation).sound
    generation.lock_exclusively().release()  # the refused readers released it


def test_read__file_removed_under_an_open_reader_is_never_an_empty_mask(generation):
    with CacheReader.current(generation.root) as reader:
        image_id = next(i for i in range(5) if len(reader.read(i).instances))
        (generation.path / "parts/part-0001-000001/bits/c.0").unlink()
        with pytest.raises(DamagedError, match="missing"):
            reader.read(image_id)


def test_verify__removed_part_is_found(generation):
    shutil.rmtree(generation.path / "parts/part-0001-000003")

    assert verify(generation).absent_ids.tolist() == [10, 11]
    with pytest.raises(CacheError, match="shard 1/1 lacks 2 of 12 images"):
        CacheReader.current(generation.root)


def test_verify__unpublished_generation_with_pending_images_is_sound(tmp_path):
    generation = begin(tmp_path, make_spec(num_shards=2))
    fill(generation, "1/2")

    found = verify(generation)

    assert found.sound
    assert found.absent_ids.tolist() == [1, 3, 5, 7, 9, 11]


def complete(generation):
    """What refine does after a repair; the ids that it had to do."""
    with ShardWriter(generation, ShardSpec(1, 1)) as writer:
        pending = writer.pending.tolist()
        for image_id in pending:
            writer.append(make_labels(image_id))
    publish(generation)
    return pending


def damage_last_image(root):
    """Masks so noisy that images lie in different chunks; a bit among the last image's is flipped."""
    generation = begin(root, make_spec(range(4)))
    with ShardWriter(generation, ShardSpec(1, 1)) as writer:
        for image_id in range(4):
            writer.append(make_labels(image_id, height=700, width=900, count=4))
    publish(generation)
    path = generation.path / "parts/part-0001-000001/bits/c.0"
    flip(path, (path.stat().st_size - 1000) * 8)
    return generation


def test_repair__only_damaged_images_are_removed(tmp_path):
    generation = damage_last_image(tmp_path)
    damaged = verify(generation).damaged_ids.tolist()
    intact = [image_id for image_id in range(4) if image_id not in damaged]
    assert 0 in intact and 3 in damaged

    done = repair(generation)

    assert (done.removed_ids.tolist(), done.num_rescued, done.num_parts) == (damaged, len(intact), 1)
    assert verify(generation).sound
    with pytest.raises(CacheError, match=f"shard 1/1 lacks {len(damaged)} of 4 images"):
        CacheReader.current(tmp_path)
    with CacheReader(generation) as reader:
        for image_id in intact:
            expected = make_labels(image_id, height=700, width=900, count=4)
            assert_same_labels(reader.read(image_id, raw=True), expected)
    assert complete(generation) == damaged
    assert CacheReader.current(tmp_path).image_ids.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("name", FILES)
def test_repair__after_any_lost_file_refine_completes_the_generation(generation, name):
    (generation.path / "parts/part-0001-000002" / name).unlink()

    done = repair(generation)

    assert done.removed_ids.tolist() == [5, 6, 7, 8, 9]
    assert repair(generation).num_parts == 0
    assert complete(generation) == [5, 6, 7, 8, 9]
    read_everything(generation)


def test_repair__killed_before_the_old_part_was_removed_is_finished_by_the_next(tmp_path, monkeypatch):
    generation = damage_last_image(tmp_path)
    damaged = verify(generation).damaged_ids.tolist()
    with monkeypatch.context() as patch:
        patch.setattr("s4m_cache.verify.remove_folder", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            repair(generation)

    done = repair(generation)

    assert (done.removed_ids.tolist(), done.num_rescued) == (damaged, 0)
    assert complete(generation) == damaged
    assert verify(generation).sound


def test_repair__sound_generation_stays_published(generation):
    assert repair(generation).num_parts == 0
    assert current(generation.root) == generation


def test_repair__pinned_generation_is_refused(generation):
    with CacheReader.current(generation.root), pytest.raises(LockedError, match="in use"):
        repair(generation)


def test_repair__damaged_publication_can_be_published_again(generation):
    flip(generation.path / "PUBLISHED.json", 30)
    assert not verify(generation).sound

    repair(generation)

    with pytest.raises(CacheError, match="s4m cache publish"):
        current(generation.root)
    publish(generation)
    read_everything(generation)


def test_repair__damaged_note_of_refine_is_removed_and_the_labels_stay_published(generation):
    note = generation.path / "shard-0001.json"
    sealed.write(note, {"images": 12})
    assert verify(generation).sound
    flip(note, 30)
    assert [damage.path for damage in verify(generation).damages] == [note]

    repair(generation)

    assert not note.exists()
    assert verify(generation).sound
    assert current(generation.root) == generation


def test_restore_current__damaged_file_names_the_newest_published_again(generation):
    assert restore_current(generation.root) is None
    flip(generation.root / CURRENT, 17)
    with pytest.raises(DamagedError):
        current(generation.root)

    assert restore_current(generation.root) == generation
    read_everything(generation)
