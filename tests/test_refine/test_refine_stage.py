"""`s4m refine` from images to a published generation."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from test_cache.samples import flip_a_bit

from s4m_cache import writer
from s4m_cache.embeddings import EmbeddingStore
from s4m_cache.errors import CacheError, LockedError
from s4m_cache.generation import Generation
from s4m_cache.generations import current
from s4m_cache.reader import CacheReader
from s4m_cache.sharding import ShardSpec
from s4m_cache.verify import repair
from s4m_cache.writer import ShardWriter
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.core.signals import handled_by
from s4m_pipeline.data.coco import load_coco
from s4m_pipeline.evaluation.refinement_quality import RefinementQuality, quality_of_shard
from s4m_pipeline.models.checkpoint import write_weights
from s4m_pipeline.models.registry import register_all
from s4m_pipeline.refine import images, labeler
from s4m_pipeline.refine.labeler import Labeler
from s4m_pipeline.refine.record import ShardRecord
from s4m_pipeline.sam import BatchedSam
from s4m_stages.refine import _stop_on_signal
from test_refine.conftest import NUM_UNLABELED, ODD_SIZES, assert_same_labels, labels_of

REPOSITORY = Path(__file__).parents[2]
ONE_BY_ONE = ("refine.prompt=none", "refine.batch_size=1")


def test_refine__labels_do_not_depend_on_shards_batches_workers_or_order(refine, tmp_path):
    refine("whole")
    for shard in ("3/4", "1/4", "4/4", "2/4"):  # in any order
        refine("shards", shard=shard)
    refine("single", "refine.batch_size=1", "refine.workers=2")
    whole = labels_of(tmp_path / "whole/cache")
    counts = [len(columns["label"]) for columns in whole.values()]
    assert len(whole) == NUM_UNLABELED
    assert min(counts) > 0  # else the comparison would prove little
    for image_id, (width, height) in ODD_SIZES.items():
        assert whole[image_id]["image_hw"].tolist() == [[height, width]]
    assert_same_labels(tmp_path / "whole/cache", tmp_path / "shards/cache")
    assert_same_labels(tmp_path / "whole/cache", tmp_path / "single/cache")


def test_refine__everything_is_there__publishes_with_quality_and_does_nothing_again(refine, tmp_path, capsys):
    refine("run", "refine.ground_truth=train.json")
    quality = Generation(tmp_path / "run/cache", 1).published()["quality"]
    assert quality["instances measured"] > 0
    assert {"SQ before", "SQ after", "CA before", "CA after", "improved", "worsened"} <= quality.keys()
    assert "SQ after, cart" in quality
    refine("run", "refine.ground_truth=train.json")
    assert capsys.readouterr().err.count(" to do") == 1


def test_refine__other_threshold__is_refused_with_both_values(refine):
    refine("run", "refine.prompt=none", shard="1/2")
    with pytest.raises(CacheError, match=r"min_score: stored 0.25, given 0.3(.|\n)*--generation 2"):
        refine("run", "refine.prompt=none", "refine.min_score=0.3", shard="2/2")


@pytest.mark.parametrize("shares", [(None,), ("1/2", "2/2"), ("5/5", "4/5", "3/5", "2/5", "1/5")], ids=len)
def test_refine__begun_in_other_shards__resumes_with_those(refine, tmp_path, monkeypatch, shares):
    """A job of three GPUs that was killed is repeated on one, on two, on five."""
    label, calls = Labeler.label, iter([False, True])

    def label_until_killed(labeler, photos, prompts):
        if next(calls):
            raise KeyboardInterrupt
        return label(labeler, photos, prompts)

    settings = (*ONE_BY_ONE, "cache.part_images=1")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Labeler, "label", label_until_killed)
        refine("run", *settings, shard="2/3")
    generation = Generation(tmp_path / "run/cache", 1)
    assert generation.stored_ids().size == 1
    for share in shares:
        assert generation.published() is None
        refine("run", *settings, shard=share)
    assert generation.published() is not None
    assert len(generation.shards) == 3
    refine("quiet", *settings)
    assert_same_labels(tmp_path / "run/cache", tmp_path / "quiet/cache")


def test_refine__without_sam__keeps_the_masks_of_the_teacher(refine, tmp_path):
    refine("run", "refine.prompt=none", "sam.model=absent.pt")
    for columns in labels_of(tmp_path / "run/cache").values():
        np.testing.assert_array_equal(columns["bits"], columns["raw_bits"])
        assert ((columns["pred_iou"] > 0.5) & (columns["pred_iou"] <= 1)).all()  # of the teacher's masks


def test_refine__no_pseudo_label_at_all__stops_with_a_histogram(refine, tmp_path):
    with pytest.raises(UserError, match=r"no pseudo-label for any of 6 images(.|\n)*0\.\d0 - 0\.\d5 +\d+  #"):
        refine("run", "refine.prompt=none", "refine.min_score=0.99")
    assert not (tmp_path / "run/cache/CURRENT.json").exists()


SPOILT = {
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:500]), "cannot be decoded"),
    "empty": (lambda path: path.write_bytes(b""), "zero bytes"),
    "missing": (lambda path: path.unlink(), "no such file"),
    "of another size": (
        lambda path: Image.open(path).resize((101, 67)).save(path),
        r"is 101 x 67 pixels, listed as \d+ x \d+",
    ),
}


@pytest.mark.parametrize(("spoil", "reason"), SPOILT.values(), ids=SPOILT)
def test_refine__unreadable_images__are_refused_beyond_the_limit_and_labeled_once_fixed(
    refine, experiment, tmp_path, spoil, reason
):
    data = tmp_path / "data"
    shutil.copytree(experiment / "data", data)
    broken = data / "train/train_00003.png"
    whole = broken.read_bytes()
    spoil(broken)
    originals = contents(data)
    settings = ("refine.prompt=none", f"data.root={data}")
    refused = rf"More than 0 unlabeled images .* cannot be used(.|\n)*train_00003.png: .*{reason}"
    with pytest.raises(UserError, match=refused):
        refine("run", *settings)
    refine("skipped", *settings, "refine.max_unreadable=1")
    assert contents(data) == originals
    published = Generation(tmp_path / "skipped/cache", 1).published()
    assert published["statistics"]["unreadable images"] == 1
    assert len(labels_of(tmp_path / "skipped/cache")[4]["label"]) == 0
    broken.write_bytes(whole)
    refine("run", *settings)
    assert len(labels_of(tmp_path / "run/cache")[4]["label"]) > 0


def test_refine__too_small_a_disk__is_refused_before_the_first_image(refine, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
        with pytest.raises(CacheError, match=r"the labels of \d+ images needs about [\d,]+ bytes, but 1,000"):
            refine("run", "refine.prompt=none")
    generation = Generation(tmp_path / "run/cache", 1)
    assert not generation.stored_ids().size
    refine("run", "refine.prompt=none")
    assert not generation.missing()


@pytest.mark.parametrize("workers", [0, 1])
def test_refine__mount_of_the_images_gone__stops_and_leaves_the_rest_to_be_labeled(
    refine, tmp_path, monkeypatch, workers
):
    read = images.read_rgb

    def read_some(path):
        if path.name == "train_00003.png":
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
        return read(path)

    with monkeypatch.context() as patched:
        patched.setattr(images, "read_rgb", read_some)
        with pytest.raises(UserError, match=r"(?s)Cannot use .*3\.png: Stale file handle.*bytes are free"):
            refine("run", f"refine.workers={workers}")
    assert Generation(tmp_path / "run/cache", 1).published() is None
    refine("run")
    assert len(labels_of(tmp_path / "run/cache")[4]["label"]) > 0


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_refine__stored_embeddings__spare_the_encoder_and_change_nothing(
    refine, tmp_path, monkeypatch, capsys
):
    cache = tmp_path / "run/cache"

    def refine_anew():
        shutil.rmtree(cache / "gen-0001")
        (cache / "CURRENT.json").unlink()
        refine("run", "cache.embeddings=True")
        assert_same_labels(cache, tmp_path / "first")

    refine("run", "cache.embeddings=True")
    shutil.copytree(cache, tmp_path / "first")
    with monkeypatch.context() as patched:
        patched.setattr(BatchedSam, "_encode_batch", None)  # calling it would fail
        patched.setattr(labeler, "open_store", lambda folder, *_: EmbeddingStore(folder))
        refine_anew()

    (store,) = cache.glob("embeddings-*/")
    files = [store / "tokens_BChw/c.0.0.0.0", store / "stride_4/c.3.0.0.0"]
    stored = [file.read_bytes() for file in files]
    for file in files:
        flip_a_bit(file)
    capsys.readouterr()
    refine_anew()
    assert [file.read_bytes() for file in files] == stored
    said = capsys.readouterr().err
    assert said.count("2 stored embeddings were damaged") == said.count("damaged") == 1


def test_refine__after_a_repair__labels_just_the_lost_images_and_publishes_again(
    refine, tmp_path, monkeypatch
):
    settings = ("refine.ground_truth=train.json",)
    refine("run", *settings)
    cache = tmp_path / "run/cache"
    generation = Generation(cache, 1)
    quality = generation.published()["quality"]
    shutil.copytree(cache, tmp_path / "first")
    flip_a_bit(generation.part_paths()[1] / "score/c.0")
    lost = repair(generation).removed_ids.tolist()
    assert 0 < len(lost) < NUM_UNLABELED
    assert generation.published() is None
    label, labeled = Labeler.label, []

    def label_and_count(labeler, photos, prompts):
        labeled.extend(photo.image_id for photo in photos)
        return label(labeler, photos, prompts)

    monkeypatch.setattr(Labeler, "label", label_and_count)
    refine("run", *settings)
    assert sorted(labeled) == lost
    assert_same_labels(cache, tmp_path / "first")
    assert current(cache) == generation
    assert generation.published()["quality"] == quality


def test_refine__unlabeled_list_annotated_with_other_classes__is_named_by_its_own_setting(
    refine, experiment, tmp_path
):
    listed = json.loads((experiment / "data/train.json").read_text())
    listed["categories"][0]["name"] = "other"
    (tmp_path / "annotated.json").write_text(json.dumps(listed))
    with pytest.raises(
        UserError, match=r"annotated.json has different classes(.|\n)*out of data.unlabeled"
    ) as caught:
        refine("run", "refine.prompt=none", f"data.unlabeled={tmp_path / 'annotated.json'}")
    assert "ground_truth" not in str(caught.value)


def test_refine__preview__draws_a_picture_and_stores_nothing(refine, tmp_path):
    refine("run", preview=2)
    assert Image.open(tmp_path / "run/preview.png").width > 3 * 384 - 400
    assert not (tmp_path / "run/cache").exists()


def test_refine__terminated__stores_the_current_batch_and_resumes_later(refine, tmp_path, monkeypatch):
    label = Labeler.label

    def label_and_be_terminated(labeler, photos, prompts):
        os.kill(os.getpid(), signal.SIGTERM)
        return label(labeler, photos, prompts)

    monkeypatch.setattr(Labeler, "label", label_and_be_terminated)
    with pytest.raises(SystemExit) as end:
        refine("run", *ONE_BY_ONE)
    assert end.value.code == 143
    assert Generation(tmp_path / "run/cache", 1).stored_ids().size == 1
    monkeypatch.setattr(Labeler, "label", label)
    refine("run", *ONE_BY_ONE)
    refine("quiet", *ONE_BY_ONE)
    assert_same_labels(tmp_path / "run/cache", tmp_path / "quiet/cache")


def test_refine__signal_to_all_its_processes__stores_the_current_batch_and_resumes_later(
    refine, experiment, tmp_path
):
    code = f"""
import pathlib, time
from s4m_pipeline.refine.labeler import Labeler
label = Labeler.label
def label_late(labeler, photos, prompts):
    pathlib.Path({str(tmp_path / "labels")!r}).touch()
    while not pathlib.Path({str(tmp_path / "go")!r}).exists():
        time.sleep(0.01)
    return label(labeler, photos, prompts)
Labeler.label = label_late
from s4m_stages.cli import main
main()
"""
    settings = (*ONE_BY_ONE, "refine.workers=2")
    command = [sys.executable, "-c", code, "refine", str(experiment / "refine_me.py")]
    command += ["--work-dir", str(tmp_path / "run"), "--teacher", str(experiment / "weights.safetensors")]
    command += [word for setting in settings for word in ("--set", setting)]
    process = subprocess.Popen(
        command, cwd=REPOSITORY, env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True
    )
    while not (tmp_path / "labels").exists():
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGTERM)
    time.sleep(0.2)  # for what it does to the loading processes
    (tmp_path / "go").touch()
    assert process.wait(timeout=60) == 143
    assert Generation(tmp_path / "run/cache", 1).stored_ids().size == 1
    refine("run", *settings)
    refine("quiet", *ONE_BY_ONE)
    assert_same_labels(tmp_path / "run/cache", tmp_path / "quiet/cache")


@pytest.mark.parametrize(("number", "usual"), [(signal.SIGTERM, []), (signal.SIGINT, [signal.SIGINT])])
def test_stop_on_signal__same_signal_again__acts_as_usual_if_it_is_ctrl_c(number, usual):
    acted = []
    with (
        handled_by(lambda number, _: acted.append(number), number),
        pytest.raises(SystemExit),
        _stop_on_signal() as stop,
    ):
        os.kill(os.getpid(), number)
        assert stop()
        os.kill(os.getpid(), number)
    assert acted == usual


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stop_on_signal__work_that_a_signal_ended__exits_with_its_code(number, code, capsys):
    with pytest.raises(SystemExit) as end, _stop_on_signal() as stop:
        assert not stop()
        os.kill(os.getpid(), number)
        assert stop()
    assert end.value.code == code
    assert "the same command resumes" in capsys.readouterr().err


def test_refine__teacher_of_other_classes__is_refused_with_both_lists(refine, experiment, tmp_path):
    classes = load_coco(experiment / "data/val.json", experiment / "data/val").class_names
    write_weights(tmp_path / "other.safetensors", {}, ("cat", "dog"))
    with pytest.raises(UserError, match=rf"\(2\): cat, dog\n.*\({len(classes)}\): {', '.join(classes)}"):
        refine("run", teacher=tmp_path / "other.safetensors")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("model.panoptic_head.num_queries=4", r"does not fit the model(.|\n)*query_embed"),
        ("test_pipeline=[{'type': 'PackDetInputs'}]", "expected LoadRGB as the first transform"),
    ],
    ids=["another architecture", "another pipeline"],
)
def test_refine__config_that_cannot_work__begins_no_generation(refine, tmp_path, fault, message):
    with pytest.raises(UserError, match=message):
        refine("run", "refine.prompt=none", fault)
    assert not (tmp_path / "run").exists()
    refine("run", "refine.prompt=none")


def test_refine__images_with_a_label_for_every_query__are_counted_and_reported(
    refine, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(Labeler, "max_instances", 2)  # the untrained teacher is not sure of all its queries
    refine("run", "refine.prompt=none")
    stored = [len(columns["label"]) for columns in labels_of(tmp_path / "run/cache").values()]
    full = sum(count >= 2 for count in stored)
    assert full > 0
    assert f"{full} images have as many labels as the teacher has queries" in capsys.readouterr().err
    statistics = Generation(tmp_path / "run/cache", 1).published()["statistics"]
    assert statistics["images with a label for every query"] == full


def test_refine__disk_full__says_what_is_needed_and_keeps_what_is_stored(refine, tmp_path, monkeypatch):
    write_part = writer.write_part

    def write_two_parts(path, images):
        if path.name.endswith("3"):
            raise OSError(errno.ENOSPC, "No space left on device")
        write_part(path, images)

    monkeypatch.setattr(writer, "write_part", write_two_parts)
    with pytest.raises(CacheError, match=r"No space left on device. Needed about [\d,]+ bytes"):
        refine("run", *ONE_BY_ONE, "cache.part_images=1")
    assert Generation(tmp_path / "run/cache", 1).stored_ids().size == 2


def test_refine__second_writer_of_a_shard__is_refused_by_name_of_the_first(refine, tmp_path):
    refine("run", "refine.prompt=none", shard="1/2")
    with (
        ShardWriter(Generation(tmp_path / "run/cache", 1), ShardSpec(2, 2)),
        pytest.raises(LockedError, match=f"process {os.getpid()}"),
    ):
        refine("run", "refine.prompt=none", shard="2/2")


def test_refine__killed_between_parts__counts_what_was_stored(refine, tmp_path, monkeypatch, capsys):
    label = Labeler.label
    calls = iter([False, False, True])

    def label_until_killed(labeler, photos, prompts):
        if next(calls):
            raise KeyboardInterrupt
        return label(labeler, photos, prompts)

    monkeypatch.setattr(Labeler, "label", label_until_killed)
    settings = (*ONE_BY_ONE, "cache.part_images=1", "refine.ground_truth=train.json")
    with pytest.raises(KeyboardInterrupt):
        refine("run", *settings)
    generation = Generation(tmp_path / "run/cache", 1)
    stored = generation.stored_ids().size
    record = ShardRecord.read(generation, ShardSpec(1, 1))
    assert (record.images, record.quality["images"]) == (stored, stored)
    assert record.seconds > 0
    monkeypatch.setattr(Labeler, "label", label)
    (generation.path / "parts/.tmp-part-0001-000009-1-abc").mkdir()  # a part that it was writing
    refine("run", *settings)
    assert f": {stored} done, {NUM_UNLABELED - stored} to do, 1 part(s) discarded" in capsys.readouterr().err
    assert generation.leftovers() == []
    refine("quiet", *settings)
    published, quiet = (Generation(tmp_path / name / "cache", 1).published() for name in ("run", "quiet"))
    assert published["quality"] == quiet["quality"]


def test_refine__quality_counted_on_the_way__equals_that_of_the_stored_labels(refine, experiment, tmp_path):
    path = experiment / "data/train.json"
    refine("run", "refine.min_score=0.2", ground_truth=path)
    generation, truth = Generation(tmp_path / "run/cache", 1), load_coco(path, experiment / "data/train")
    counted = ShardRecord.read(generation, ShardSpec(1, 1)).quality
    with CacheReader(generation) as reader:
        stored = quality_of_shard(reader, generation.image_ids, truth, None)
    assert RefinementQuality.from_counts(counted).counts() == stored.counts()
    assert generation.published()["quality"] == stored.as_dict(truth.class_names)


def teacher_class() -> type:
    """Only to be had once everything is registered."""
    from mmdet.registry import MODELS

    register_all()
    return MODELS.get("InstanceMask2Former")


def test_refine__out_of_memory_anywhere__halves_and_gives_the_same_labels(
    refine, tmp_path, monkeypatch, caplog
):
    def fail_above(limit, owner, name, rows):
        """Make a method run out of memory when `rows(arguments)` exceeds the limit."""
        usual = getattr(owner, name)

        def limited(*arguments, **options):
            if rows(arguments) > limit:
                raise torch.OutOfMemoryError("injected")
            return usual(*arguments, **options)

        monkeypatch.setattr(owner, name, limited)

    refine("roomy", "refine.ground_truth=train.json")
    fail_above(2, teacher_class(), "mask_queries", lambda arguments: len(arguments[1]))
    fail_above(1, BatchedSam, "_encode_batch", lambda arguments: len(arguments[1]))
    fail_above(2, BatchedSam, "_decode_chunk", lambda arguments: len(arguments[2]))
    fail_above(1, labeler, "refine_masks", lambda arguments: len(arguments[2]))
    refine("tight", "refine.ground_truth=train.json", "sam.encoder_batch=4", "sam.decoder_chunk=4")
    assert_same_labels(tmp_path / "roomy/cache", tmp_path / "tight/cache")
    said = [record.getMessage() for record in caplog.records]
    for size in ("2 image(s)", "1 image(s)", "2 prompt(s)"):
        assert any(f"out of device memory: continuing with {size} at a time" in line for line in said)
    histograms = [
        ShardRecord.read(Generation(tmp_path / name / "cache", 1), ShardSpec(1, 1)).score_histogram
        for name in ("roomy", "tight")
    ]
    assert sum(histograms[0]) == sum(histograms[1])


def test_refine__out_of_memory_with_a_single_image__says_so(refine, monkeypatch):
    def fail(*_):
        raise torch.OutOfMemoryError("injected")

    monkeypatch.setattr(teacher_class(), "mask_queries", fail)
    with pytest.raises(UserError, match="Out of device memory with a single image"):
        refine("run")
