"""Splits: laws of the choice, published lists, folders, leaks, and what is on disk."""

import json
import random
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from s4m_pipeline.core.errors import UserError
from s4m_pipeline.data.coco import load_coco
from s4m_pipeline.data.labeled import check_leak
from s4m_pipeline.data.split_files import refuse_overwrite, write_split
from s4m_pipeline.data.splits import choose_listed, choose_percent, split_folder, split_listed, split_percent

names = st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=60, unique=True)
percents = st.floats(0.1, 99.9)


def load(data_set):
    return load_coco(data_set.write(), data_set.images)


@given(names, percents, st.integers(0, 9), st.randoms())
def test_choose_percent__any_order_gives_the_same_part_of_the_names(names, percent, seed, shuffler):
    chosen = choose_percent(names, percent, seed)
    shuffled = list(names)
    shuffler.shuffle(shuffled)
    assert chosen == choose_percent(shuffled, percent, seed)
    assert set(chosen) <= set(names)
    assert len(set(chosen)) == len(chosen) == max(1, int(len(names) * percent / 100 + 0.5))


@given(names, percents, percents, st.integers(0, 9))
def test_choose_percent__smaller_percentage_is_nested_in_larger(names, one, other, seed):
    small, large = sorted((one, other))
    assert set(choose_percent(names, small, seed)) <= set(choose_percent(names, large, seed))


def test_choose_percent__is_the_same_in_every_release():
    names = [f"{k:03d}.png" for k in range(100)]
    assert choose_percent(names, 3, seed=0) == ["021.png", "057.png", "099.png"]
    assert choose_percent(names, 3, seed=1) != choose_percent(names, 3, seed=0)


@pytest.mark.parametrize("percent", [0, 100, -1, float("nan")])
def test_choose_percent__out_of_range_is_refused(percent):
    with pytest.raises(UserError, match="above 0 and below 100"):
        choose_percent(["a"], percent, 0)


NAMES = ["x/a.png", "y/a.png", "y/b.c.png", "d.png"]


@pytest.mark.parametrize(
    ("listed", "meant"),
    [
        ("x/a.png", "x/a.png"),
        ("b.c.png", "y/b.c.png"),
        ("b.c", "y/b.c.png"),
        ("y/b.c", "y/b.c.png"),
        ("train/y/a.png", "y/a.png"),
        ("train/y/a", "y/a.png"),
        ("train/d.png", "d.png"),
        ("./d.png", "d.png"),
    ],
)
def test_choose_listed__folder_and_ending_may_differ(tmp_path, listed, meant):
    assert choose_listed(NAMES, [listed, listed], tmp_path) == [meant]


@pytest.mark.parametrize(
    "listed",
    [
        "ulm_000003_000019_gtFine_instanceIds.png",
        "ulm/ulm_000003_000019_gtFine_polygons.json",
        "gtFine/train/ulm/ulm_000003_000019_gtFine_labelIds.png",
        "leftImg8bit/train/ulm/ulm_000003_000019_leftImg8bit.png",
    ],
)
def test_choose_listed__annotation_files_of_cityscapes_mean_their_photos(tmp_path, listed):
    names = ["ulm/ulm_000003_000019_leftImg8bit.png", "ulm/ulm_000004_000019_leftImg8bit.png"]
    assert choose_listed(names, [listed], tmp_path) == names[:1]
    with pytest.raises(UserError, match=r"match no image .*: jena/ulm_000003_000019_gtFine_color"):
        choose_listed(names, ["jena/ulm_000003_000019_gtFine_color.png"], tmp_path)


def test_choose_listed__unknown_and_ambiguous_names_are_refused_together(tmp_path):
    with pytest.raises(UserError) as caught:
        choose_listed(NAMES, ["a.png", "nope.png", "z/b.c.png", "d.png"], tmp_path)
    assert "2 names match no image of the data set: nope.png, z/b.c.png" in str(caught.value)
    assert "1 names match several images, add folders: a.png (x/a.png or y/a.png)" in str(caught.value)


def test_split_percent__parts_are_disjoint_and_complete(data_set):
    data = load(data_set)
    split = split_percent(data, 50, seed=0)
    assert sorted([*split.labeled, *split.unlabeled], key=lambda image: image.id) == list(data.images)
    assert len(split.labeled) == len(split.unlabeled) == 2


def test_write_split__unlabeled_part_has_no_annotations_and_labeled_only_its_own(data_set, tmp_path):
    data = load(data_set)
    record = write_split(data, split_percent(data, 25, seed=0), [], tmp_path / "out")
    labeled = load_coco(tmp_path / "out/labeled.json", data.images_root)
    unlabeled = json.loads((tmp_path / "out/unlabeled.json").read_text())
    assert unlabeled["annotations"] == []
    assert all(image.keys() == {"id", "file_name", "width", "height"} for image in unlabeled["images"])
    assert [image.file_name for image in labeled.images] == record["labeled_file_names"]
    assert labeled.annotations == {labeled.images[0].id: data.annotations[labeled.images[0].id]}
    assert labeled.categories == data.categories
    assert record == json.loads((tmp_path / "out/split.json").read_text())
    assert record["labeled"]["instances_per_class"] == {"cat": 1, "dog": 1}
    assert record["source"]["sha256"] == data.sha256


def test_write_split__shuffled_source_gives_the_same_bytes(data_set, tmp_path):
    data = load(data_set)
    write_split(data, split_percent(data, 50, seed=0), [], tmp_path / "one")
    for key in ("images", "annotations", "categories"):
        random.Random(3).shuffle(data_set.document[key])
    data = load(data_set)
    write_split(data, split_percent(data, 50, seed=0), [], tmp_path / "two")
    for name in ("labeled.json", "unlabeled.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_split_listed__own_record_reproduces_a_percentage_split(data_set, tmp_path):
    data = load(data_set)
    by_percent = split_percent(data, 50, seed=4)
    list_path = tmp_path / "list.txt"
    list_path.write_text("# 50 %, seed 4\n\n" + "\n".join(image.file_name for image in by_percent.labeled))
    by_list = split_listed(data, list_path)
    assert (by_list.labeled, by_list.unlabeled) == (by_percent.labeled, by_percent.unlabeled)


def test_split_listed__byte_order_mark_is_no_part_of_the_first_name(data_set, tmp_path):
    (tmp_path / "list.txt").write_text("a\nb\n", encoding="utf-8-sig")
    split = split_listed(load(data_set), tmp_path / "list.txt")
    assert len(split.labeled) == 2


@pytest.mark.parametrize("content", [b"", b"# nothing\n", b"\xff\xfe\xff", None])
def test_split_listed__unusable_list_is_refused(data_set, tmp_path, content):
    if content is not None:
        (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(UserError, match=r"--list .*list\.txt"):
        split_listed(load(data_set), tmp_path / "list.txt")


def test_split_listed__all_images_leave_nothing_unlabeled(data_set, tmp_path):
    (tmp_path / "list.txt").write_text("a\nb\nc\nd\n")
    with pytest.raises(UserError, match="no unlabeled images remain"):
        split_listed(load(data_set), tmp_path / "list.txt")


def test_split_listed__labeled_images_without_instance_are_refused(data_set, tmp_path):
    data_set.document["annotations"] = data_set.document["annotations"][2:]
    (tmp_path / "list.txt").write_text("a.png\n")
    with pytest.raises(UserError, match="none of the 1 labeled images has a usable instance"):
        split_listed(load(data_set), tmp_path / "list.txt")


def test_split_folder__takes_new_images_upright_and_leaves_known_ones_out(data_set, validation_set, tmp_path):
    folder = tmp_path / "pool"
    (folder / "deep").mkdir(parents=True)
    shutil.copy(data_set.image_path(0), folder / "labeled under another name.png")
    shutil.copy(validation_set.image_path(2), folder / "deep/validation.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (24, 16), "red").save(folder / "deep/new.JPG", "JPEG", exif=exif)
    Image.new("L", (9, 7)).save(folder / "b.png")
    (folder / "notes.txt").write_text("no image")
    (folder / "._b.png").write_bytes(b"a resource fork")
    (folder / "link.png").symlink_to("b.png")
    data = load(data_set)
    split = split_folder(data, folder, [load(validation_set)])
    assert split.labeled == data.images
    found = [(image.id, image.file_name, image.width, image.height) for image in split.unlabeled]
    assert found == [(41, "b.png", 9, 7), (42, "deep/new.JPG", 16, 24)]
    assert split.method["left_out"] == 2
    write_split(data, split, [], tmp_path / "out")
    assert len(load_coco(tmp_path / "out/unlabeled.json", folder, labeled=False).images) == 2


def test_split_folder__faulty_files_are_named_together(data_set, tmp_path):
    folder = tmp_path / "pool"
    folder.mkdir()
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_bytes(b"hello")
    with pytest.raises(UserError) as caught:
        split_folder(load(data_set), folder)
    assert all(name in str(caught.value) for name in ("empty.png", "text.jpg"))


def test_split_folder__link_out_of_the_folder__is_refused_by_name(data_set, tmp_path):
    folder = tmp_path / "pool"
    folder.mkdir()
    Image.new("L", (9, 7)).save(folder / "b.png")
    Image.new("L", (9, 8)).save(tmp_path / "elsewhere.png")
    (folder / "out.png").symlink_to(tmp_path / "elsewhere.png")
    with pytest.raises(UserError, match=r"point outside.*: out\.png"):
        split_folder(load(data_set), folder)


@pytest.mark.parametrize("exists", [True, False], ids=["empty", "missing"])
def test_split_folder__no_images_is_refused(data_set, tmp_path, exists):
    if exists:
        (tmp_path / "pool").mkdir()
    with pytest.raises(UserError, match=r"--unlabeled .*pool: no "):
        split_folder(load(data_set), tmp_path / "pool")


def test_check_leak__same_names_and_ids_with_other_pixels_are_no_leak(data_set, validation_set):
    check_leak(load(data_set), load(validation_set))


def test_check_leak__same_bytes_under_another_name_are_refused(data_set, validation_set):
    shutil.copy(data_set.image_path(3), validation_set.image_path(0))
    with pytest.raises(UserError, match=r"1 images are also in the validation set .*sub/d.png \(= a.png\)"):
        check_leak(load(data_set), load(validation_set))


def test_check_leak__same_file_is_refused(data_set):
    with pytest.raises(UserError, match="4 images are also"):
        check_leak(load(data_set), load(data_set))


def test_check_leak__absent_file_is_compared_by_name(data_set, validation_set):
    validation_set.image_path(1).unlink()
    with pytest.raises(UserError, match=r"1 images are also .* b\.png\."):
        check_leak(load(data_set), load(validation_set))


def test_split_percent__validation_image_is_refused(data_set, validation_set):
    shutil.copy(data_set.image_path(3), validation_set.image_path(0))
    with pytest.raises(UserError, match="validation"):
        split_percent(load(data_set), 50, 0, [load(validation_set)])


def test_refuse_overwrite__finished_split_needs_force(data_set, tmp_path):
    data = load(data_set)
    out = tmp_path / "out"
    refuse_overwrite(out, [data.json_path], force=False)
    write_split(data, split_percent(data, 50, 0), [], out)
    with pytest.raises(UserError, match="--force"):
        refuse_overwrite(out, [data.json_path], force=False)
    refuse_overwrite(out, [data.json_path], force=True)


def test_refuse_overwrite__own_input_is_never_replaced(tmp_path):
    with pytest.raises(UserError, match="would be overwritten"):
        refuse_overwrite(tmp_path, [tmp_path / "labeled.json"], force=True)
