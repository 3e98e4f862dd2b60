"""Imported labels go to the images of their names, over what the current generation holds."""

import json

import numpy as np
import pytest

from s4m_cache.coco import export_coco
from s4m_cache.errors import CacheError
from s4m_cache.generations import begin, current, publish
from s4m_cache.importing import import_coco
from s4m_cache.reader import CacheReader
from s4m_cache.writer import ShardWriter
from test_cache.samples import make_labels, make_spec

NAMES = {id_: f"street/p{id_}.png" for id_ in range(12)}


@pytest.fixture
def root(tmp_path):
    """A cache whose generation 1 knows the names of its 12 images."""
    generation = begin(tmp_path / "cache", make_spec(), file_names=NAMES)
    for shard in generation.shards:
        with ShardWriter(generation, shard) as writer:
            for image_id in writer.pending.tolist():
                writer.append(make_labels(image_id))
    publish(generation)
    return tmp_path / "cache"


@pytest.fixture
def document(root, tmp_path):
    with CacheReader.current(root) as reader:
        export_coco(reader, tmp_path / "out.json")
    return json.loads((tmp_path / "out.json").read_text())


def labels_of(image_id, *, imported):
    """Those that a generation is made with; a file has no ignored ones, as crowds are left out."""
    instances = make_labels(image_id).instances
    return instances.select(~instances.ignored) if imported else instances


def written(tmp_path, document):
    (tmp_path / "own.json").write_text(json.dumps(document))
    return tmp_path / "own.json"


def renumbered(document, ids):
    """Only the images whose ids are keys, with new ids, classes in reverse order, and moved masks."""
    categories = [{**entry, "id": 100 - entry["id"]} for entry in document["categories"]]
    return {
        "images": [{**e, "id": ids[e["id"]]} for e in document["images"] if e["id"] in ids],
        "categories": categories,
        "annotations": [
            {**e, "image_id": ids[e["image_id"]], "category_id": 100 - e["category_id"], "score": 0.25}
            for e in document["annotations"]
            if e["image_id"] in ids
        ],
    }


def test_import__of_some_images_under_other_ids__replaces_theirs_and_keeps_the_rest(root, document, tmp_path):
    ids = {3: 1, 4: 900, 7: 2}
    path = written(tmp_path, renumbered(document, ids))
    generation = import_coco(path, root)
    assert generation.number == 2
    assert generation.file_names == NAMES
    assert generation.spec.classes == make_spec().classes
    with CacheReader.current(root) as reader:
        for image_id in range(12):
            found, expected = reader.read(image_id).instances, labels_of(image_id, imported=image_id in ids)
            np.testing.assert_array_equal(found.masks.bits, expected.masks.bits)
            np.testing.assert_array_equal(found.labels, expected.labels)
            scores = np.full(len(found), 0.25, np.float32) if image_id in ids else expected.scores
            np.testing.assert_array_equal(found.scores, scores)
    assert import_coco(path, root) == generation


def test_import__after_a_kill__is_completed_over_the_same_generation(root, document, tmp_path, monkeypatch):
    path = written(tmp_path, renumbered(document, {3: 1, 4: 2}))
    monkeypatch.setattr("s4m_cache.importing.publish", lambda generation: None)
    generation = import_coco(path, root)
    assert current(root).number == 1
    monkeypatch.undo()
    assert import_coco(path, root) == generation == current(root)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("p3.png", "did you mean street/p3.png"),
        ("photos/street/p3.png", "did you mean street/p3.png"),
        ("street\\\\p3.png", "did you mean street/p3.png"),
        ("q.png", "Expected names such as street/p0.png"),
    ],
)
def test_import__name_that_is_not_in_the_cache__is_refused(root, document, tmp_path, name, message):
    document["images"][3]["file_name"] = name
    with pytest.raises(CacheError, match=message):
        import_coco(written(tmp_path, document), root)
    assert current(root).number == 1


def test_import__before_any_generation__takes_the_ids_of_the_list_and_needs_all(document, tmp_path):
    ids = {id_: (5 * id_) % 12 + 1 for id_ in range(12)}
    path = written(tmp_path, renumbered(document, ids))
    generation = import_coco(path, tmp_path / "new", file_names=NAMES)
    with CacheReader(generation) as reader:
        for image_id in range(12):
            expected = labels_of(image_id, imported=True).masks.bits
            np.testing.assert_array_equal(reader.read(image_id).instances.masks.bits, expected)
    del document["images"][3]
    document["annotations"] = []
    with pytest.raises(CacheError, match=r"no entry in `images` for 1 of 12.*street/p3\.png"):
        import_coco(written(tmp_path, document), tmp_path / "newer", file_names=NAMES)


def test_import__of_a_class_that_the_cache_lacks__is_refused(root, document, tmp_path):
    document["categories"][0]["name"] = "tram"
    with pytest.raises(CacheError, match="categories tram"):
        import_coco(written(tmp_path, document), root)
