import multiprocessing
import pickle
import tracemalloc

import numpy as np
import pytest

from s4m_cache import reader as reader_module
from s4m_cache.errors import CacheError
from s4m_cache.generations import begin, retire
from s4m_cache.reader import CacheReader
from test_cache.samples import assert_same_labels, fill, make_labels, make_published, make_spec


@pytest.fixture(scope="module")
def generation(tmp_path_factory):
    return make_published(tmp_path_factory.mktemp("cache"), [5, 3, 40, 17, 2, 9, 1000, 2**40])


def test_read__without_raw_leaves_teachers_masks_out_unless_they_are_needed(generation):
    with CacheReader(generation) as reader:
        found = {image_id: reader.read(image_id) for image_id in reader.image_ids.tolist()}

    made = {image_id: make_labels(image_id).instances for image_id in found}
    used = {image_id: bool((found.use_raw | found.ignored).any()) for image_id, found in made.items()}
    assert set(used.values()) == {True, False}
    for image_id, labels in found.items():
        assert (labels.instances.raw_masks is not None) == used[image_id]
        np.testing.assert_array_equal(labels.dense(), make_labels(image_id).dense())


def test_read__window_equals_slice_of_the_whole(generation):
    with CacheReader(generation) as reader:
        labels = reader.read(40)

    np.testing.assert_array_equal(labels.dense((3, 10, 30, 41)), labels.dense()[:, 3:30, 10:41])


@pytest.mark.parametrize("preload_bytes", [0, 300, 1 << 20], ids=["none", "some", "all"])
def test_read_many__keeps_the_given_order(generation, preload_bytes):
    ids = [1000, 3, 5, 2**40, 3]
    with CacheReader(generation, preload_bytes=preload_bytes) as reader:
        for found, image_id in zip(reader.read_many(ids, raw=True), ids, strict=True):
            assert_same_labels(found, make_labels(image_id))
        assert sum(data.nbytes for data in reader._preloaded.values()) <= preload_bytes


def test_read__unknown_image_is_refused(generation):
    with CacheReader(generation) as reader:
        assert 5 in reader and 6 not in reader and len(reader) == 8
        with pytest.raises(CacheError, match="no labels for image 6"):
            reader.read(6)


def test_read__closed_reader_is_refused(generation):
    reader = CacheReader(generation)
    reader.close()
    with pytest.raises(CacheError, match="closed"):
        reader.read(5)


@pytest.mark.parametrize("open_images", [1, 4])
def test_read__of_more_images_than_are_kept_open__reads_the_same(generation, open_images, monkeypatch):
    monkeypatch.setattr(reader_module, "OPEN_IMAGES", open_images)
    with CacheReader(generation) as reader:
        ids = reader.image_ids.tolist()
        for image_id in [*ids, *reversed(ids)]:
            assert_same_labels(reader.read(image_id, raw=True), make_labels(image_id))
            kept = [part.image_ids.size for part in reader._open.values()]
            assert len(kept) == 1 or sum(kept) <= open_images


def test_reader__of_many_images__holds_few_bytes_for_each(tmp_path):
    generation = begin(tmp_path, make_spec(range(4096)))
    fill(generation, max_images=256)
    tracemalloc.start()
    with CacheReader(generation) as reader:
        held_bytes, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert held_bytes / len(reader) < 32


def test_column__all_parts_in_a_row(generation):
    with CacheReader(generation) as reader:
        counts = sum(len(reader.read(i).instances) for i in reader.image_ids.tolist())
        assert reader.column("label").shape == (counts,)
        assert reader.column("bbox").shape == (counts, 4)


def _read_in_worker(reader, image_ids, queue):
    queue.put([reader.read(image_id).dense().sum() for image_id in image_ids])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_reader__in_worker_processes_reads_the_same(generation, method):
    reader = CacheReader(generation, preload_bytes=200)
    ids = reader.image_ids.tolist()
    expected = [reader.read(image_id).dense().sum() for image_id in ids]  # its files are open before the fork
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    workers = [context.Process(target=_read_in_worker, args=(reader, ids, queue)) for _ in range(2)]
    for worker in workers:
        worker.start()

    assert [queue.get(timeout=60) for _ in workers] == [expected] * 2
    for worker in workers:
        worker.join()


def test_reader__pickled_pins_for_itself(tmp_path):
    old = make_published(tmp_path, [1, 2])
    reader = CacheReader(old)
    copy = pickle.loads(pickle.dumps(reader))
    copy.read(1)
    make_published(tmp_path, [1, 2], number=2)

    reader.close()
    with pytest.raises(CacheError, match="in use"):
        retire(old)
    copy.close()
    retire(old)
