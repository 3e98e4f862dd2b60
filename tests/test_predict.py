"""`s4m predict`, the predictor behind it, and its pictures."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from PIL import Image
from pycocotools.coco import COCO

from s4m_cache.masks import Masks
from s4m_pipeline.apps.predict.images import list_images
from s4m_pipeline.apps.predict.predictor import Detections, Predictor
from s4m_pipeline.apps.predict.results import LEAST_SIDE_PX, draw_overlay
from s4m_pipeline.config.experiment import load_experiment
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.data.images import read_rgb
from s4m_pipeline.data.loaders import coco_dataset, eval_dataloader
from s4m_pipeline.data.packed_masks import pack_masks
from s4m_pipeline.evaluation.duplicates import as_predicted
from s4m_pipeline.evaluation.mask_ap import coco_results
from s4m_pipeline.experiment.best import update_best
from s4m_pipeline.models.checkpoint import read_weights, write_weights
from s4m_stages.predict import predict
from tests.conftest import CLASSES, SIZE_PX, TinyCoco


@pytest.fixture(scope="module")
def predictor(tiny_config: Path, tiny_checkpoint: Path) -> Predictor:
    return Predictor(tiny_config, tiny_checkpoint, min_score=0)


def run(config: Path, checkpoint: Path, *paths: Path, out: Path, **options: Any) -> None:
    predict(config, [checkpoint, *paths], out, **{"min_score": 0, "workers": 0, **options})


def documents(out: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    return tuple(json.loads((out / f"{name}.json").read_text()) for name in ("predictions", "images"))


def photo(path: Path, width: int, height: int, **options: Any) -> Path:
    pixels = np.random.default_rng(width + height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def test_predict__without_a_checkpoint_takes_the_best_of_the_experiment(
    tiny_config: Path,
    tiny_coco: TinyCoco,
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("work_dirs") / tiny_config.stem
    (folder / "teacher").mkdir(parents=True)
    shutil.copy(tiny_checkpoint, folder / "teacher/weights.safetensors")
    (folder / "teacher/run.json").write_text('{"status": "finished", "result": {"AP": 12.0}}')
    update_best(folder)
    images = tiny_coco.images("val")
    predict(tiny_config, [images], Path("out"), workers=0, max_images=1, pictures=False)
    assert "the teacher, validation AP 12.0" in capsys.readouterr().err
    assert (Path("out") / "predictions.json").exists()


def test_predict__results_equal_the_ones_that_evaluate_measures(
    tiny_coco: TinyCoco, tiny_config: Path, tiny_checkpoint: Path, predictor: Predictor, tmp_path: Path
) -> None:
    run(tiny_config, tiny_checkpoint, tiny_coco.images("val"), out=tmp_path, pictures=False)

    _, config = load_experiment(tiny_config, [])
    dataset = coco_dataset(tiny_coco.annotations("val"), tiny_coco.images("val"), config["test_pipeline"])
    expected = []
    with torch.inference_mode():
        for batch in Runner.build_dataloader(eval_dataloader(dataset, workers=0)):
            for sample in predictor.network.test_step(batch):
                found = coco_results(sample.img_id, sample.ori_shape, [1, 2], sample.pred_instances)
                filled = sample.pred_instances.masks.areas > 0
                expected += [result for result, shown in zip(found, filled, strict=True) if shown]
    found, _ = documents(tmp_path)
    assert len(found) > 30
    assert [_key(result) for result in sorted(found, key=_key)] == sorted(map(_key, expected))


def _key(result: dict[str, Any]) -> tuple:
    counts = result["segmentation"]["counts"]
    text = counts if isinstance(counts, str) else counts.decode()
    return result["image_id"], round(result["score"], 5), result["category_id"], text


def test_predict__pycocotools_reads_masks_areas_and_classes(
    tiny_coco: TinyCoco, tiny_config: Path, tiny_checkpoint: Path, predictor: Predictor, tmp_path: Path
) -> None:
    run(tiny_config, tiny_checkpoint, tiny_coco.images("val"), out=tmp_path, pictures=False)

    coco = COCO(tmp_path / "images.json")
    results = coco.loadRes(str(tmp_path / "predictions.json"))
    assert [category["name"] for category in coco.cats.values()] == list(CLASSES)
    for image_id, image in coco.imgs.items():
        expected = predictor.predict(tiny_coco.images("val") / image["file_name"])
        annotations = results.loadAnns(results.getAnnIds(image_id))
        assert len(annotations) == len(expected) > 0
        assert [entry["category_id"] - 1 for entry in annotations] == expected.labels.tolist()
        for entry, mask, box in zip(annotations, expected.masks, expected.boxes, strict=True):
            np.testing.assert_array_equal(results.annToMask(entry), mask)
            assert entry["area"] == mask.sum()
            x, y, width, height = entry["bbox"]
            assert (x, y, x + width, y + height) == tuple(box)


def test_predict__neither_batch_nor_workers_change_the_results(
    tiny_config: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    for number, size in enumerate([(64, 48), (48, 64), (64, 48), (70, 33), (64, 40)]):
        photo(tmp_path / f"in/{number}.png", *size)
    options = [{}, {"batch_size": 3, "workers": 2}]
    found = []
    for number, chosen in enumerate(options):
        out = tmp_path / f"out{number}"
        run(tiny_config, tiny_checkpoint, tmp_path / "in", out=out, pictures=False, **chosen)
        found.append(sorted(documents(out)[0], key=lambda result: (result["image_id"], -result["score"])))
    alone, together = found
    assert len(alone) == len(together) > 30
    for one, other in zip(alone, together, strict=True):
        assert (one["image_id"], one["category_id"]) == (other["image_id"], other["category_id"])
        assert one["score"] == pytest.approx(other["score"], abs=1e-5)


def test_predict__unreadable_images_are_listed_and_skipped(
    tiny_coco: TinyCoco, tiny_config: Path, tiny_checkpoint: Path, tmp_path: Path, capsys: Any
) -> None:
    folder = tmp_path / "in"
    shutil.copytree(tiny_coco.images("val"), folder)
    whole = (folder / "1.png").read_bytes()
    faulty = {"cut.png": whole[: len(whole) // 2], "empty.jpg": b"", "text.png": b"no image"}
    for name, content in faulty.items():
        (folder / name).write_bytes(content)

    run(tiny_config, tiny_checkpoint, folder, out=tmp_path / "out", min_score=0.5)

    listed = (tmp_path / "out/unreadable.txt").read_text().splitlines()
    assert [line.partition(":")[0] for line in listed] == sorted(faulty)
    assert "3 of 6 images cannot be read" in capsys.readouterr().err
    _, images = documents(tmp_path / "out")
    assert [image["file_name"] for image in images["images"]] == ["1.png", "2.png", "3.png"]
    assert (folder / "1.png").read_bytes() == whole
    assert sorted(path.name for path in (tmp_path / "out/pictures").iterdir()) == ["1.jpg", "2.jpg", "3.jpg"]


def test_predict__only_unreadable_images_fail_without_results(
    tiny_config: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"(?s)None of the 1 images can be read.*a\.png.*BMP.*save it as"):
        run(tiny_config, tiny_checkpoint, tmp_path / "in", out=tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_predict__rotated_photo_is_predicted_and_drawn_upright(
    tiny_config: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    path = photo(tmp_path / "turned.jpg", 80, 40, exif=exif)
    run(tiny_config, tiny_checkpoint, path, out=tmp_path / "out")
    results, images = documents(tmp_path / "out")
    assert (images["images"][0]["width"], images["images"][0]["height"]) == (40, 80)
    assert {tuple(result["segmentation"]["size"]) for result in results} == {(80, 40)}
    width, height = Image.open(tmp_path / "out/pictures/turned.jpg").size
    assert height == 2 * width >= LEAST_SIDE_PX / 2


def test_predict__score_and_image_limits_leave_the_rest_out(
    tiny_coco: TinyCoco, tiny_config: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    folder = tiny_coco.images("val")
    run(tiny_config, tiny_checkpoint, folder, out=tmp_path / "all", pictures=False)
    scores = [result["score"] for result in documents(tmp_path / "all")[0] if result["image_id"] <= 2]
    middle = float(np.median(scores))
    limits = {"min_score": middle, "max_images": 2}
    run(tiny_config, tiny_checkpoint, folder, out=tmp_path / "some", **limits)
    results, images = documents(tmp_path / "some")
    kept = [result["score"] for result in results]
    assert max(scores) in kept and set(kept) <= {score for score in scores if score >= middle}
    assert [image["file_name"] for image in images["images"]] == ["1.png", "2.png"]


@pytest.mark.parametrize("place", ["of the weights", "work_dir", "out"])
def test_predict__results_lie_in_the_experiment_of_the_weights_unless_told_otherwise(
    tiny_coco: TinyCoco, tiny_config: Path, tiny_checkpoint: Path, tmp_path: Path, place: str
) -> None:
    weights = tmp_path / "experiment/student/weights.safetensors"
    weights.parent.mkdir(parents=True)
    shutil.copy(tiny_checkpoint, weights)
    (weights.parent / "run.json").write_text("{}")
    options = {"work_dir": {"work_dir": tmp_path / "other"}, "out": {"out": tmp_path / "out"}}.get(place, {})
    predict(tiny_config, [weights, tiny_coco.images("val") / "1.png"], workers=0, pictures=False, **options)
    folders = {"of the weights": "experiment/predictions", "work_dir": "other/predictions", "out": "out"}
    assert [path.parent for path in tmp_path.rglob("predictions.json")] == [tmp_path / folders[place]]


def test_predictor__config_with_nms_iou__drops_duplicates_as_the_report_does(
    tiny_coco: TinyCoco, tiny_config: Path, tiny_checkpoint: Path, predictor: Predictor
) -> None:
    image = tiny_coco.images("val") / "1.png"
    strict = Predictor(tiny_config, tiny_checkpoint, overrides=["refine.nms_iou=0.99"], min_score=1e-6)
    everything, found = predictor.predict(image), strict.predict(image)
    masks = everything.masks.reshape(len(everything), -1).astype(int)
    intersection = masks @ masks.T
    iou = intersection / (masks.sum(1)[:, None] + masks.sum(1) - intersection)
    kept: list[int] = []
    for index in range(len(everything)):
        if (iou[index, kept] < 0.99).all():
            kept.append(index)
    assert 0 < len(kept) < len(everything)
    np.testing.assert_array_equal(found.masks, everything.masks[kept])
    np.testing.assert_array_equal(found.scores, everything.scores[kept])

    instances = {"labels": everything.labels, "scores": everything.scores, "masks": everything.packed}
    results = coco_results(1, everything.image_hw_px, [1, 2], instances)
    other = {**results[0], "image_id": 2, "score": 1.0}
    reported = as_predicted([*results[::-1], other], min_score=1e-6, max_iou=0.99)
    assert reported == [other, *(results[place] for place in kept)]
    low = float(found.scores[1])
    assert len(as_predicted(results, min_score=low, max_iou=0.99)) == int((found.scores >= low).sum())


def test_predictor__config_without_nms_iou__drops_near_copies_unless_all_are_wanted(
    tiny_config: Path, tiny_checkpoint: Path, predictor: Predictor
) -> None:
    usual = Predictor(tiny_config, tiny_checkpoint, overrides=["refine.nms_iou=none"])
    height, width = 20, 30
    masks = np.zeros((3, height, width), bool)
    masks[0, 2:12, 2:12] = masks[1, 2:12, 2:11] = masks[2, 2:12, 7:17] = True  # IoU 0.9, and 1/3
    found = InstanceData(
        scores=torch.tensor([0.8, 0.9, 0.7]),
        labels=torch.tensor([0, 1, 0]),
        masks=pack_masks(torch.from_numpy(masks)),
    )
    assert usual._detections(found, (height, width)).scores.tolist() == pytest.approx([0.9, 0.7])
    assert len(predictor._detections(found, (height, width))) == 3


def test_predict__earlier_results_are_not_overwritten(
    tiny_coco: TinyCoco, tiny_config: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "pictures").mkdir()
    with pytest.raises(UserError, match=r"holds pictures already.*\n.*--out"):
        run(tiny_config, tiny_checkpoint, tiny_coco.images("val"), out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


def test_predict__folder_that_cannot_be_made_is_named(
    tiny_coco: TinyCoco, tiny_config: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/out cannot be written: Not a directory"):
        run(tiny_config, tiny_checkpoint, tiny_coco.images("val"), out=tmp_path / "file/out")


def test_predict__checkpoint_that_does_not_fit_changes_nothing(
    tiny_coco: TinyCoco, tiny_config: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    tensors = read_weights(tiny_checkpoint).tensors
    three, nameless = tmp_path / "three.safetensors", tmp_path / "nameless.safetensors"
    write_weights(three, tensors, ("a", "b", "c"))
    write_weights(nameless, tensors, ())
    for path, message in ((three, "does not fit the model"), (nameless, "does not say which classes")):
        with pytest.raises(UserError, match=message):
            run(tiny_config, path, tiny_coco.images("val"), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_list_images__names_are_relative_to_the_shared_folder_and_unique(tmp_path: Path) -> None:
    files = [photo(tmp_path / name, 8, 8) for name in ("a/1.png", "a/x/1.png", "b/1.bmp")]
    (tmp_path / "a/notes.txt").write_text("")
    listed = list_images([tmp_path / "b", tmp_path / "a", files[0]])
    assert [(image.id, image.file_name) for image in listed] == [
        (1, "a/1.png"),
        (2, "a/x/1.png"),
        (3, "b/1.bmp"),
    ]
    assert [image.file_name for image in list_images([tmp_path / "a"])] == ["1.png", "x/1.png"]
    assert [image.file_name for image in list_images([files[1]])] == ["1.png"]


def test_list_images__missing_path_and_empty_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Not found: .*absent"):
        list_images([tmp_path, tmp_path / "absent"])
    with pytest.raises(UserError, match=r"(?s)No images in .*\.jpg"):
        list_images([tmp_path])


def test_predict__images_that_differ_in_ending_alone_get_a_picture_each(
    tiny_config: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    for name in ("1.png", "1.bmp"):
        photo(tmp_path / "in" / name, 32, 32)
    run(tiny_config, tiny_checkpoint, tmp_path / "in", out=tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out/pictures").iterdir()) == ["1.bmp.jpg", "1.png.jpg"]


def test_predictor__array_and_file_give_the_same(predictor: Predictor, tiny_coco: TinyCoco) -> None:
    path = tiny_coco.images("val") / "2.png"
    pixels, _ = read_rgb(path)
    pixels.flags.writeable = False
    one, other = predictor.predict(path), predictor.predict(pixels)
    assert one.masks.shape == (len(one), SIZE_PX, SIZE_PX) and len(one) > 5
    assert (np.diff(one.scores) <= 0).all()
    for name in ("masks", "labels", "scores", "boxes"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 3)),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((0, 8, 3), "u1"),
    ],
    ids=["gray", "float", "alpha", "empty"],
)
def test_predictor__array_of_another_kind_is_refused(predictor: Predictor, array: np.ndarray) -> None:
    with pytest.raises(UserError, match=r"expected uint8 RGB \(H, W, 3\)"):
        predictor.predict(array)


def detections(*boxes: tuple[int, int, int, int], size: int) -> Detections:
    masks = np.zeros((len(boxes), size, size), bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    scores = np.linspace(0.9, 0.6, len(boxes), dtype=np.float32)
    labels = np.arange(len(boxes)) % 2
    return Detections((size, size), Masks.from_dense(masks), labels, scores)


def test_overlay__without_objects_is_the_photo_in_readable_size() -> None:
    large = np.random.default_rng(0).integers(0, 256, (LEAST_SIDE_PX, 500, 3), dtype=np.uint8)
    np.testing.assert_array_equal(draw_overlay(large, detections(size=1), CLASSES), large)
    small = np.full((100, 60, 3), 77, np.uint8)
    picture = np.array(draw_overlay(small, detections(size=1), CLASSES))
    assert picture.shape == (800, 480, 3) and (picture == 77).all()


def test_overlay__tints_the_mask_outlines_it_and_leaves_the_rest() -> None:
    size = LEAST_SIDE_PX
    photo = np.full((size, size, 3), 100, np.uint8)
    picture = np.array(draw_overlay(photo, detections((200, 300, 400, 500), size=size), CLASSES)).astype(int)
    outline, inside = picture[400, 200], picture[400, 300]
    assert (picture[300:500, 200] == outline).all() and (picture[499, 200:400] == outline).all()
    assert abs(inside - 100).max() < abs(outline - 100).max()
    changed = (picture != 100).any(-1)
    changed[300:500, 200:400] = False
    rows, columns = np.nonzero(changed)  # the name, above the object
    assert rows.size > 100 and rows.min() > 260 and rows.max() < 301 and columns.min() >= 200


def test_overlay__names_of_crowded_objects_do_not_cover_one_another() -> None:
    size = LEAST_SIDE_PX
    photo = np.zeros((size, size, 3), np.uint8)
    alone = [np.array(draw_overlay(photo, detections((300, 300, 420, 420), size=size), CLASSES))]
    both = np.array(
        draw_overlay(photo, detections((300, 300, 420, 420), (300, 300, 420, 420), size=size), CLASSES)
    )
    outside = np.ones((size, size), bool)
    outside[300:420, 300:420] = False
    first = (alone[0] > 0).any(-1) & outside
    np.testing.assert_array_equal(both[first], alone[0][first])
    assert ((both > 0).any(-1) & outside).sum() > 1.8 * first.sum()
