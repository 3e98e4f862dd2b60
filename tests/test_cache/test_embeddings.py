import pickle
import shutil
from collections import namedtuple

import numpy as np
import pytest

from s4m_cache.embeddings import EmbeddingStore, store_path
from s4m_cache.errors import CacheError, DamagedError

SHAPES = {"emb": (8, 4, 4), "s0": (2, 16, 16)}
IMAGE_BYTES = 2 * (128 + 512) + 2 * 4


def make(path, image_ids=(7, 3), budget_bytes=10_000, shapes=SHAPES, **fingerprint):
    return EmbeddingStore.create(
        path,
        image_ids=image_ids,
        shapes=shapes,
        fingerprint={"sam": "sha256:aaaa", **fingerprint},
        budget_bytes=budget_bytes,
    )


def levels(seed):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float16) for name, shape in SHAPES.items()}


def test_store__arrays_come_back_also_through_pickle_and_reopening(tmp_path):
    store = make(tmp_path / "a" / "embeddings")
    assert 7 not in store
    store.put(7, levels(7))

    for reader in (store, pickle.loads(pickle.dumps(store)), make(tmp_path / "a" / "embeddings")):
        assert 7 in reader and 3 not in reader and 99 not in reader
        for name, level in reader.get(7).items():
            np.testing.assert_array_equal(level, levels(7)[name])
    with pytest.raises(CacheError, match="no embedding of image 3"):
        store.get(3)


def test_create__over_budget_is_refused_before_the_first_byte(tmp_path):
    with pytest.raises(
        CacheError, match=f"need {2 * IMAGE_BYTES:,} bytes, more than the budget of {2 * IMAGE_BYTES - 1:,}"
    ):
        make(tmp_path / "embeddings", budget_bytes=2 * IMAGE_BYTES - 1)
    assert list(tmp_path.iterdir()) == []
    make(tmp_path / "embeddings", budget_bytes=2 * IMAGE_BYTES)


def test_create__too_small_a_disk_is_refused_before_the_first_byte(tmp_path, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100))
    with pytest.raises(CacheError, match="100 bytes are free"):
        make(tmp_path / "embeddings")
    assert list(tmp_path.iterdir()) == []


def test_create__other_encoder_images_or_shapes_are_refused(tmp_path):
    make(tmp_path / "embeddings")
    with pytest.raises(CacheError) as error:
        make(tmp_path / "embeddings", image_ids=(7,), shapes={"emb": (8, 4, 4)}, sam="sha256:bbbb")
    for fault in ("sam: stored 'sha256:aaaa', given 'sha256:bbbb'", "image ids", "shapes"):
        assert fault in str(error.value)


def test_store_path__differs_with_the_fingerprint_alone(tmp_path):
    path = store_path(tmp_path, {"sam": "a", "names": "b"})
    assert path == store_path(tmp_path, {"names": "b", "sam": "a"})
    assert path != store_path(tmp_path, {"sam": "c", "names": "b"})
    assert path.parent == tmp_path


def test_put__foreign_image_or_shape_is_refused(tmp_path):
    store = make(tmp_path / "embeddings")
    with pytest.raises(CacheError, match="image 99"):
        store.put(99, levels(0))
    with pytest.raises(CacheError, match="expected"):
        store.put(7, {"emb": np.zeros((1, 4, 4), np.float16)})


def test_get__flipped_bit_is_found_and_truncated_file_counts_as_absent(tmp_path):
    store = make(tmp_path / "embeddings")
    store.put(7, levels(7))
    path = tmp_path / "embeddings/emb/c.0.0.0.0"
    data = bytearray(path.read_bytes())
    data[50] ^= 4
    path.write_bytes(data)
    with pytest.raises(DamagedError, match="Affected images: 7"):
        store.get(7)
    path.write_bytes(data[:-1])
    assert 7 not in store
