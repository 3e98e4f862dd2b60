import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from s4m_cache.coco import decode_segmentation, export_coco, read_coco
from s4m_cache.errors import CacheError
from s4m_cache.generations import begin, publish
from s4m_cache.importing import import_coco
from s4m_cache.masks import Masks
from s4m_cache.reader import CacheReader
from s4m_cache.records import ImageLabels, Instances
from s4m_cache.sharding import ShardSpec
from s4m_cache.writer import ShardWriter
from s4m_pipeline.data.segmentation import mask_faults
from test_cache.samples import CATEGORY_IDS, make_labels, make_published, make_spec

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def reader(tmp_path):
    with CacheReader(make_published(tmp_path / "cache")) as reader:
        yield reader


def test_export__pycocotools_reads_the_same_masks_and_category_ids(reader, tmp_path):
    num_annotations = export_coco(reader, tmp_path / "out.json", {3: "street/three.png"})

    coco = COCO(tmp_path / "out.json")
    assert len(coco.anns) == num_annotations == len(reader.column("label"))
    assert coco.loadImgs(3)[0]["file_name"] == "street/three.png"
    assert {id_: category["name"] for id_, category in coco.cats.items()} == {
        24: "car",
        26: "person",
        7: "tree",
    }
    for image_id in range(12):
        expected = make_labels(image_id)
        annotations = coco.loadAnns(coco.getAnnIds(image_id))
        assert [a["category_id"] for a in annotations] == [CATEGORY_IDS[k] for k in expected.instances.labels]
        np.testing.assert_allclose([a["score"] for a in annotations], expected.instances.scores)
        assert [a["iscrowd"] for a in annotations] == expected.instances.ignored.tolist()
        for annotation, mask in zip(annotations, expected.dense(), strict=True):
            np.testing.assert_array_equal(coco.annToMask(annotation), mask)
            assert annotation["area"] == mask.sum()
            assert (
                annotation["bbox"]
                == coco_mask.toBbox(coco_mask.encode(np.asfortranarray(mask, np.uint8))).tolist()
            )


def test_export__masks_without_pixels_are_left_out(tmp_path):
    generation = begin(tmp_path / "cache", make_spec([1]))
    instances = Instances.create(masks=Masks.empty(2), labels=[0, 1], scores=[1, 1])
    with ShardWriter(generation, ShardSpec(1, 1)) as writer:
        writer.append(ImageLabels(image_id=1, height=9, width=9, instances=instances))
    publish(generation)

    with CacheReader(generation) as reader:
        assert export_coco(reader, tmp_path / "out.json") == 0
    body = json.loads((tmp_path / "out.json").read_text())
    assert body["annotations"] == []
    assert body["images"][0]["id"] == 1


def test_import__of_an_export_gives_the_same_labels_without_the_ignored(reader, tmp_path):
    export_coco(reader, tmp_path / "out.json")

    generation = import_coco(tmp_path / "out.json", tmp_path / "imported")

    assert generation.spec.category_ids == (7, 24, 26)
    with CacheReader.current(tmp_path / "imported") as imported:
        for image_id in range(12):
            found, expected = imported.read(image_id).instances, make_labels(image_id).instances.kept
            np.testing.assert_array_equal(found.masks.bits, expected.masks.bits)
            assert [(7, 24, 26)[k] for k in found.labels] == [CATEGORY_IDS[k] for k in expected.labels]
            np.testing.assert_array_equal(found.scores, expected.scores)
            np.testing.assert_array_equal(found.pred_ious, expected.pred_ious)
    assert import_coco(tmp_path / "out.json", tmp_path / "imported") == generation


def test_import__into_a_cache_with_other_labels_makes_the_next_generation(reader, tmp_path):
    export_coco(reader, tmp_path / "one.json")
    body = json.loads((tmp_path / "one.json").read_text())
    (tmp_path / "two.json").write_text(json.dumps({**body, "annotations": body["annotations"][1:]}))
    root = tmp_path / "imported"

    numbers = [import_coco(tmp_path / f"{name}.json", root).number for name in ("one", "two", "two")]

    assert numbers == [1, 2, 2]
    with CacheReader.current(root) as imported:
        assert imported.generation.number == 2


@given(st.tuples(st.integers(1, 30), st.integers(1, 30)).flatmap(lambda shape: hnp.arrays(np.bool_, shape)))
def test_decode__any_rle_equals_pycocotools(mask):
    rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    plain = np.flatnonzero(np.diff(mask.T.ravel(), prepend=False, append=not mask.T.ravel()[-1]))
    height, width = mask.shape

    np.testing.assert_array_equal(decode_segmentation(rle, height, width), mask)
    runs = np.diff(plain, prepend=0).tolist()
    np.testing.assert_array_equal(
        decode_segmentation({"size": [height, width], "counts": runs}, height, width), mask
    )


def test_decode__polygons_equal_pycocotools():
    polygons = [[2, 2, 20, 3, 15, 18], [22.5, 1, 29, 1, 29, 8, 22.5, 8]]
    expected = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, 24, 32)))
    np.testing.assert_array_equal(decode_segmentation(polygons, 24, 32), expected)


@pytest.mark.parametrize(
    "segmentation",
    [
        None,
        "rle",
        {},
        {"size": [9, 9]},
        {"size": [9, 9], "counts": None},
        {"size": [9, 8], "counts": [72]},
        {"size": [9, 9], "counts": [80]},
        {"size": [9, 9], "counts": [-1, 82]},
        {"size": [9, 9], "counts": [81.5]},
        {"size": [9, 9], "counts": ["a"]},
        {"size": [9, 9], "counts": "oooooooooooooooooooooooooooo"},
        {"size": [9, 9], "counts": "é"},
        {"size": [9, 9], "counts": "~~"},
        [[1, 2, 3, 4]],
        [[1, 2, 3, 4, 5, 6, 7]],
        [[1, 2, 3, 4, float("nan"), 6]],
        [[1, 2, 3, 4, 1e12, 6]],
        [["a", "b", 1, 2, 3, 4]],
        [1, 2, 3, 4, 5, 6],
        [[[1, 2], [3, 4], [5, 6]]],
    ],
    ids=str,
)
def test_decode__malformed_segmentation_is_refused_with_its_annotation(segmentation):
    with pytest.raises(CacheError, match="annotation 17: malformed segmentation"):
        decode_segmentation(segmentation, 9, 9, 17)


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40))
def test_decode__any_text_is_decoded_or_refused(counts):
    try:
        mask = decode_segmentation({"size": [7, 9], "counts": counts}, 7, 9)
    except CacheError:
        return
    assert mask.shape == (7, 9)


GOOD = {
    "images": [{"id": 1, "file_name": "a.png", "height": 9, "width": 9}],
    "categories": [{"id": 5, "name": "car"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 5, "segmentation": [[1, 1, 5, 1, 5, 5]]}],
}


def test_read_coco__crowds_and_empty_masks_are_left_out(tmp_path):
    crowd = {"id": 2, "image_id": 1, "category_id": 5, "iscrowd": 1, "segmentation": {}}
    empty = {"id": 3, "image_id": 1, "category_id": 5, "segmentation": {"size": [9, 9], "counts": [81]}}
    path = tmp_path / "in.json"
    path.write_text(json.dumps(GOOD | {"annotations": [*GOOD["annotations"], crowd, empty]}))

    assert len(read_coco(path).labels(1).instances) == 1


@pytest.mark.parametrize(
    "change, message",
    [
        ({"images": [*GOOD["images"], *GOOD["images"]]}, "1 images with a duplicate id"),
        ({"images": [GOOD["images"][0] | {"height": 10**6, "width": 10**6}]}, "with an invalid size: 1"),
        ({"images": [GOOD["images"][0] | {"id": 2}]}, "images that are not listed: 1"),
        ({"categories": [{"id": 6, "name": "car"}]}, "categories that are not listed: 5"),
        ({"categories": []}, "0 categories"),
        ({"images": [{"id": 1}]}, "KeyError 'height'"),
        ({"annotations": None}, "TypeError"),
        ({"annotations": [GOOD["annotations"][0] | {"image_id": 2**63}]}, "OverflowError"),
        ({"images": [GOOD["images"][0] | {"id": 2**63}], "annotations": []}, "OverflowError"),
    ],
    ids=["twice", "huge", "image", "category", "none", "field", "null", "large id", "large image id"],
)
def test_read_coco__faulty_file_is_refused(tmp_path, change, message):
    path = tmp_path / "in.json"
    path.write_text(json.dumps(GOOD | change))
    with pytest.raises(CacheError, match=message):
        read_coco(path)


def test_import__polygon_of_two_points_beside_a_good_one__is_dropped_and_reported(tmp_path):
    triangle = GOOD["annotations"][0]
    short = triangle | {"id": 2, "segmentation": [[1, 1, 2, 2], *triangle["segmentation"]]}
    path = tmp_path / "in.json"
    path.write_text(json.dumps(GOOD | {"annotations": [triangle, short]}))
    notes = []

    generation = import_coco(path, tmp_path / "cache", note=notes.append)

    with CacheReader(generation) as imported:
        first, second = imported.read(1).dense()
    assert first.any()
    np.testing.assert_array_equal(first, second)
    assert notes == [f"{path}: dropped polygons of fewer than 3 points from 1 annotations"]


@pytest.mark.parametrize("segmentation", [[[1, 1, -30, 1, 5, 5]], []], ids=["far outside", "no polygon"])
def test_import__what_data_check_refuses__is_refused(tmp_path, segmentation):
    path = tmp_path / "in.json"
    path.write_text(
        json.dumps(GOOD | {"annotations": [GOOD["annotations"][0] | {"segmentation": segmentation}]})
    )
    (fault,) = mask_faults(segmentation, None, 9, 9)
    with pytest.raises(CacheError, match=f"annotation 1: malformed segmentation: {fault.detail}"):
        import_coco(path, tmp_path / "cache")


@pytest.mark.parametrize(("limit", "code"), [("80", 1), ("81", 0)])
def test_import__pixel_limit_of_the_environment__holds(tmp_path, limit, code):
    path = tmp_path / "in.json"
    path.write_text(json.dumps(GOOD))
    command = [sys.executable, "-m", "s4m_stages", "cache", "import", tmp_path / "cache", path]
    done = subprocess.run(
        command, env={**os.environ, "S4M_MAX_PIXELS": limit}, cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr
    assert ("1 to 80 pixels" in done.stderr) == (code != 0)


@pytest.mark.parametrize("text", ["", "{", "[]", '"text"', "[" * 10**5], ids=lambda text: text[:6])
def test_read_coco__other_file_is_refused(tmp_path, text):
    path = tmp_path / "in.json"
    path.write_text(text)
    with pytest.raises(CacheError, match="not a COCO instance file"):
        read_coco(path)
    with pytest.raises(CacheError, match="no such file"):
        read_coco(tmp_path / "absent.json")
