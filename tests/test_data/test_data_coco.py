"""Reading COCO JSON: what is kept, and every fault that is named."""

import json
import os

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from s4m_pipeline.core.errors import UserError
from s4m_pipeline.data.check import check_images
from s4m_pipeline.data.coco import load_coco, parse_coco
from s4m_pipeline.data.findings import Problem
from s4m_pipeline.data.unlabeled import load_unlabeled
from s4m_pipeline.evaluation.ground_truth import truth_masks
from s4m_pipeline.evaluation.mask_ap import mask_ap


def find(data_set):
    return parse_coco(data_set.write(), data_set.images)


def test_load_coco__sparse_unordered_ids_get_contiguous_labels_in_id_order(data_set):
    data_set.document["categories"].reverse()
    data_set.document["images"].reverse()
    data = load_coco(data_set.write(), data_set.images)
    assert [(c.id, c.name, c.label) for c in data.categories] == [(3, "cat", 0), (17, "dog", 1)]
    assert [image.id for image in data.images] == [10, 20, 30, 40]
    assert data.images[2].path == (data_set.images / "sub/c.png").resolve()
    assert [a["id"] for a in data.instances(20)] == [3, 4]
    assert data.class_counts(data.images[:1]) == {"cat": 1, "dog": 1}


def test_load_coco__many_faults_are_named_in_one_message(data_set):
    data_set.document["categories"].append({"id": 3, "name": "cow"})
    data_set.document["images"][0]["file_name"] = "../a.png"
    data_set.document["annotations"][2]["category_id"] = 4
    data_set.document["annotations"][6]["segmentation"] = [[1, 1, 5, 1]]
    with pytest.raises(UserError) as caught:
        load_coco(data_set.write(), data_set.images)
    for part in (
        "category ids used more than once (1): 3",
        "../a.png",
        "3 (category 4)",
        "malformed mask (1): 7 (no polygon has 3 points",
        "s4m data check",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize("content", ["", "{", "[1]", "\xff\xfe", '{"images": 3}', "[" * 10**5])
def test_load_coco__no_coco_json_is_refused(tmp_path, content):
    (tmp_path / "a.json").write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match=r"a\.json: not"):
        load_coco(tmp_path / "a.json", tmp_path)


@pytest.mark.parametrize(
    ("content", "advice"),
    [
        (b"PK\x03\x04...", "ZIP archive: unpack"),
        (b'<?xml version="1.0"?><annotation/>', "XML"),
        (b"0 0.5 0.5 0.2 0.3\n1 0.1 0.1 0.2 0.2\n", "YOLO"),
        ('{"images": ["stra\xdfe"]}'.encode("latin-1"), "UTF-8"),
        (b'{"images": [', "incomplete"),
    ],
)
def test_load_coco__other_kinds_of_files_are_told_apart(tmp_path, content, advice):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=advice):
        load_coco(tmp_path / "a.json", tmp_path)


def test_parse_coco__backslash_in_a_name__says_what_to_write(data_set):
    data_set.document["images"][2]["file_name"] = "sub\\c.png"
    (name,) = find(data_set)[1].names(Problem.FILE_OUTSIDE)
    assert "(write / instead of" in name


@pytest.mark.parametrize("name", ["images/a.png", "A.PNG", "http%3A/a%2Epng", "sub/a.png"])
def test_check_images__missing_file__is_named_with_one_of_the_same_last_part(data_set, name):
    data_set.document["images"][0]["file_name"] = name
    found = check_images(find(data_set)[0].images)
    assert found.names(Problem.FILE_MISSING) == [f"{name} (there is a.png)"]


def test_load_coco__file_that_stays_the_same__is_parsed_once(data_set):
    path = data_set.write()
    os.utime(path, (1, 1))
    first = load_coco(path, data_set.images)
    assert load_coco(path, data_set.images, labeled=False) is first
    os.utime(path, (2, 2))
    assert load_coco(path, data_set.images) is not first


def test_load_coco__missing_json_is_refused(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        load_coco(tmp_path / "a.json", tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "../out.png",
        "sub/../../out.png",
        "/etc/out.png",
        "..\\out.png",
        "link.png",
        "linked/x.png",
        "a\0b",
        "\ud800.png",
        "x" * 300 + ".png",
    ],
)
def test_parse_coco__name_leading_outside_is_refused(data_set, tmp_path, name):
    (tmp_path / "out.png").write_bytes(b"secret")
    (data_set.images / "link.png").symlink_to(tmp_path / "out.png")
    (data_set.images / "linked").symlink_to(tmp_path)
    data_set.document["images"][0]["file_name"] = name
    data, findings = find(data_set)
    assert len(findings.names(Problem.FILE_OUTSIDE)) == 1
    assert [image.id for image in data.images] == [20, 30, 40]


def test_parse_coco__linked_image_folder_is_followed(data_set, tmp_path):
    (tmp_path / "link").symlink_to(data_set.images)
    data, findings = parse_coco(data_set.write(), tmp_path / "link")
    assert list(findings) == []
    assert data.images_root == data_set.images.resolve()


def test_parse_coco__link_inside_the_folder_is_the_same_file(data_set):
    (data_set.images / "again.png").symlink_to("a.png")
    data_set.document["images"][1]["file_name"] = "again.png"
    assert find(data_set)[1].names(Problem.FILE_TWICE) == ["again.png"]


IMAGE_FAULTS = {
    "id is text": ({"id": "7"}, Problem.IMAGE_FAULTY),
    "id is true": ({"id": True}, Problem.IMAGE_FAULTY),
    "id too large": ({"id": 2**63}, Problem.IMAGE_FAULTY),
    "no name": ({"file_name": None}, Problem.IMAGE_FAULTY),
    "no width": ({"width": None}, Problem.IMAGE_FAULTY),
    "zero height": ({"height": 0}, Problem.IMAGE_FAULTY),
    "float size": ({"width": 24.0}, Problem.IMAGE_FAULTY),
    "too thin": ({"width": 2, "height": 201}, Problem.SIZE_THIN),
    "huge size": ({"width": 10**6, "height": 10**6}, Problem.SIZE_OVER_LIMIT),
    "id twice": ({"id": 20}, Problem.IMAGE_ID_TWICE),
    "name twice": ({"file_name": "b.png"}, Problem.FILE_TWICE),
    "name twice, written otherwise": ({"file_name": "./b.png"}, Problem.FILE_TWICE),
}


@pytest.mark.parametrize(("change", "problem"), IMAGE_FAULTS.values(), ids=IMAGE_FAULTS)
def test_parse_coco__faulty_image_is_named(data_set, change, problem):
    data_set.document["images"].append(
        {**data_set.document["images"][0], "id": 50, "file_name": "e.png"} | change
    )
    data, findings = find(data_set)
    assert [(p, len(names)) for p, names in findings if p.severity == "error"] == [(problem, 1)]
    assert len(data.images) == 4


ANNOTATION_FAULTS = {
    "not an object": (None, Problem.ANNOTATION_FAULTY),
    "no id": ({"id": None}, Problem.ANNOTATION_FAULTY),
    "id twice": ({"id": 1}, Problem.ANNOTATION_ID_TWICE),
    "unknown image": ({"image_id": 11}, Problem.IMAGE_UNKNOWN),
    "image id is a list": ({"image_id": []}, Problem.IMAGE_UNKNOWN),
    "unknown category": ({"category_id": 1}, Problem.CATEGORY_UNKNOWN),
    "area is null": ({"area": None}, Problem.AREA_FAULTY),
    "infinite area": ({"area": float("inf")}, Problem.AREA_FAULTY),
    "iscrowd is null": ({"iscrowd": None}, Problem.CROWD_FAULTY),
    "iscrowd is text": ({"iscrowd": "0"}, Problem.CROWD_FAULTY),
    "box is null": ({"bbox": None}, Problem.BOX_FAULTY),
    "box of three": ({"bbox": [1, 2, 3]}, Problem.BOX_FAULTY),
    "NaN in box": ({"bbox": [1, 2, 3, float("nan")]}, Problem.BOX_FAULTY),
    "no mask": ({"segmentation": []}, Problem.MASK_FAULTY),
}


@pytest.mark.parametrize(("change", "problem"), ANNOTATION_FAULTS.values(), ids=ANNOTATION_FAULTS)
def test_parse_coco__faulty_annotation_is_named_and_left_out(data_set, change, problem):
    good = dict(data_set.document["annotations"][0], id=99)
    data_set.document["annotations"].append(good | change if change is not None else None)
    data, findings = find(data_set)
    assert [(p, len(names)) for p, names in findings if p.severity == "error"] == [(problem, 1)]
    assert sum(map(len, data.annotations.values())) == 8


def test_parse_coco__two_annotations_alike_but_for_an_absent_mask__are_no_repetition(data_set):
    second = {**data_set.document["annotations"][0], "id": 99}
    del second["segmentation"]
    data_set.document["annotations"].append(second)
    _, findings = find(data_set)
    assert [(p, len(names)) for p, names in findings] == [(Problem.MASK_FAULTY, 1)]


UNUSABLE = {
    "crowd": ({"iscrowd": 1}, Problem.CROWD),
    "zero-width box": ({"bbox": [2, 2, 0, 4]}, Problem.BOX_EMPTY),
    "box outside": ({"bbox": [24, 2, 5, 5]}, Problem.BOX_EMPTY),
    "shares of the image": ({"segmentation": [[0.1, 0.1, 0.4, 0.1, 0.4, 0.4]]}, Problem.MASK_EMPTY),
    "polygon beside the image": ({"segmentation": [[26, 2, 32, 2, 32, 6]]}, Problem.MASK_EMPTY),
    "box elsewhere": ({"bbox": [12, 8, 6, 4]}, Problem.BOX_MASK_APART),
    "points on a line": ({"segmentation": [[2, 2, 5, 4, 8, 6]]}, Problem.MASK_EMPTY),
    "empty mask": ({"segmentation": {"size": [16, 24], "counts": [384]}}, Problem.MASK_EMPTY),
}


@pytest.mark.parametrize(("change", "problem"), UNUSABLE.values(), ids=UNUSABLE)
def test_parse_coco__unusable_annotation_is_warned_of_and_not_counted(data_set, change, problem):
    data_set.document["annotations"][0].update(change)
    data, findings = find(data_set)
    assert [p for p, _ in findings] == [problem]
    assert problem.severity == "warning"
    assert len(data.usable) == 7


def test_parse_coco__objects_listed_twice__count_once(data_set):
    listed = data_set.document["annotations"]
    listed += [{**entry, "id": entry["id"] + 100} for entry in listed]
    data, findings = find(data_set)
    assert findings.names(Problem.OBJECT_TWICE) == [str(id_) for id_ in range(101, 109)]
    assert sorted(data.usable) == list(range(1, 9))


def test_parse_coco__area_of_zero__is_that_of_the_mask(data_set):
    data_set.document["annotations"][1]["area"] = 0
    data, findings = find(data_set)
    assert [p for p, _ in findings] == [Problem.AREA_ABSENT]
    assert data.instances(10)[1]["area"] == 4


@pytest.mark.parametrize("ending", ["\n", "\r", "\t", "\u2028"])
def test_parse_coco__control_character_in_a_class_name__is_an_error(data_set, ending):
    data_set.document["categories"][0]["name"] += ending
    assert Problem.CATEGORY_NAME_FAULTY in dict(find(data_set)[1])


def test_load_coco__only_crowd_is_refused_with_counts(data_set):
    for annotation in data_set.document["annotations"]:
        annotation["iscrowd"] = 1
    with pytest.raises(UserError, match=r"no annotation is usable.*of 8: 8 crowd"):
        load_coco(data_set.write(), data_set.images)


def test_load_coco__only_crowd_in_unlabeled_data__gives_the_images(data_set):
    for annotation in data_set.document["annotations"]:
        annotation["iscrowd"] = 1
    data = load_coco(data_set.write(), data_set.images, labeled=False)
    assert [image.id for image in data.images] == [10, 20, 30, 40]
    assert not data.usable
    assert load_unlabeled(data_set.json_path, data_set.images).annotated is None


TRIANGLE = [1, 1, 5, 1, 5, 5]


@pytest.mark.parametrize("backend", ["pycocotools", "faster_coco_eval"])
@pytest.mark.parametrize("short", [[], [1, 1], [1, 1, 2, 2]], ids=["empty", "one point", "two points"])
@pytest.mark.parametrize("short_comes_first", [True, False])
def test_load_coco__polygon_of_too_few_points__is_dropped_and_the_rest_evaluated(
    data_set, backend, short, short_comes_first
):
    pytest.importorskip(backend)
    data_set.document["annotations"][0]["segmentation"] = [TRIANGLE]
    whole = load_coco(data_set.write(), data_set.images)
    polygons = [short, TRIANGLE] if short_comes_first else [TRIANGLE, short]
    data_set.document["annotations"][0]["segmentation"] = polygons
    data = load_coco(data_set.write(), data_set.images)
    image = whole.images[0]
    masks, expected = (
        truth_masks(truth, image).masks.dense((0, 0, image.height, image.width)) for truth in (data, whole)
    )
    assert expected.any()
    np.testing.assert_array_equal(masks, expected)
    predictions = [
        {"image_id": 10, "category_id": 3, "score": 0.9, "segmentation": rle}
        for rle in coco_mask.encode(np.asfortranarray(expected[:1].transpose(1, 2, 0).astype(np.uint8)))
    ]
    assert mask_ap(data, predictions, backend=backend) == mask_ap(whole, predictions, backend=backend)


ABSENT = {"bbox": Problem.BOX_ABSENT, "area": Problem.AREA_ABSENT, "iscrowd": Problem.CROWD_ABSENT}


@pytest.mark.parametrize("backend", ["pycocotools", "faster_coco_eval"])
def test_load_coco__annotations_without_box_area_and_iscrowd__are_learned_from_and_evaluated(
    data_set, backend
):
    """They have those of their masks; of both kinds of run lengths, too."""
    pytest.importorskip(backend)
    masks = np.zeros((2, 16, 24), np.uint8)
    masks[0, 3:9, 5:20] = masks[1, 2:4, 2:5] = 1
    rle = coco_mask.encode(np.asfortranarray(masks[0]))
    rle["counts"] = rle["counts"].decode()
    data_set.annotate(10, 3, rle, bbox=[5, 3, 15, 6], area=90)
    data_set.annotate(20, 3, [[2, 2, 5, 2, 5, 4, 2, 4], [1, 1]], bbox=[2, 2, 3, 2], area=6)
    for annotation in data_set.document["annotations"][1:8:2]:  # a column of 4 pixels, from the top
        annotation.update(bbox=[1, 0, 1, 4], area=4)
    del data_set.document["annotations"][0:8:2]
    whole = load_coco(data_set.write(), data_set.images)
    for annotation in data_set.document["annotations"]:
        for key in ABSENT:
            del annotation[key]
    data, findings = find(data_set)
    assert {p for p, _ in findings} == {*ABSENT.values(), Problem.MASK_PART_SHORT}
    assert all(len(findings.names(problem)) == 6 for problem in ABSENT.values())
    assert data.annotations == whole.annotations
    assert data.usable == whole.usable
    predictions = [
        {"image_id": 10, "category_id": 3, "score": 0.9, "segmentation": rle},
        {"image_id": 20, "category_id": 3, "score": 0.8, "segmentation": rle},
    ]
    found = mask_ap(data, predictions, backend=backend)
    assert found == mask_ap(whole, predictions, backend=backend)
    assert found.AP


@pytest.mark.parametrize(
    ("change", "problem"),
    [({"segmentation": [[1, 1, 5]]}, Problem.MASK_FAULTY), ({"image_id": 11}, Problem.IMAGE_UNKNOWN)],
    ids=["mask", "image"],
)
def test_parse_coco__absent_box_and_area_that_follow_from_nothing__are_no_further_errors(
    data_set, change, problem
):
    faulty = data_set.document["annotations"][0]
    faulty.update(change)
    del faulty["bbox"], faulty["area"]
    data, findings = find(data_set)
    assert [p for p, _ in findings if p.severity == "error"] == [problem]
    assert 1 not in data.usable


def test_load_coco__no_annotations_are_refused_only_when_labeled(data_set):
    data_set.document["annotations"] = []
    with pytest.raises(UserError, match="the file has no annotations"):
        load_coco(data_set.write(), data_set.images)
    assert len(load_coco(data_set.json_path, data_set.images, labeled=False).images) == 4


def test_parse_coco__unused_class_empty_image_id_zero_and_order_are_reported(data_set):
    data_set.document["categories"].insert(0, {"id": 40, "name": "owl"})
    data_set.document["annotations"] = data_set.document["annotations"][:6]
    data_set.document["annotations"][0]["id"] = 0
    _, findings = find(data_set)
    assert dict(findings) == {
        Problem.CATEGORY_ORDER: ["first is 40, lowest is 3"],
        Problem.CATEGORY_UNUSED: ["owl"],
        Problem.ANNOTATION_ID_ZERO: ["0"],
        Problem.IMAGE_WITHOUT_INSTANCE: ["sub/d.png"],
    }


def test_parse_coco__terminal_codes_in_names_are_escaped(data_set):
    data_set.document["images"][0]["file_name"] = "/\x1b[31m\ud800.png"
    assert find(data_set)[1].names(Problem.FILE_OUTSIDE) == ["/\\x1b[31m\\ud800.png"]


@pytest.mark.parametrize(
    "categories", [[], [None], [{"id": 1}], [{"id": -1, "name": "x"}], [{"id": 1, "name": " "}]]
)
def test_parse_coco__no_usable_category_is_an_error(data_set, categories):
    data_set.document["categories"] = categories
    assert find(data_set)[1].names(Problem.CATEGORY_NONE) == ["categories"]


def test_parse_coco__category_name_twice_is_an_error(data_set):
    data_set.document["categories"].append({"id": 18, "name": "dog"})
    assert find(data_set)[1].names(Problem.CATEGORY_NAME_TWICE) == ["dog"]


def test_parse_coco__json_written_by_python_with_nan_does_not_crash(data_set):
    text = json.dumps(data_set.document).replace("12.0", "NaN", 1)
    data_set.json_path.write_text(text)
    assert parse_coco(data_set.json_path, data_set.images)[1].names(Problem.AREA_FAULTY) == ["1"]
