"""`s4m refine` from images to a published generation."""

import errno
import os
import shutil
import signal

import numpy as np
import pytest
from PIL import Image

from cache import writer
from cache.embeddings import EmbeddingStore
from cache.errors import CacheError, LockedError
from cache.generation import Generation
from cache.sharding import ShardSpec
from cache.writer import ShardWriter
from s4m_pipeline.errors import UserError
from s4m_pipeline.refine import build
from s4m_pipeline.refine.fan_out import run_shards
from s4m_pipeline.refine.labeller import Labeller
from s4m_pipeline.sam import BatchedSam
from test_refine.conftest import NUM_UNLABELED, ODD_SIZES, assert_same_labels, labels_of

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


def test_refine__other_threshold_or_shard_count__is_refused_with_both_values(refine):
    refine("run", "refine.prompt=none", shard="1/2")
    with pytest.raises(CacheError, match=r"min_score: stored 0.25, given 0.3(.|\n)*--generation 2"):
        refine("run", "refine.prompt=none", "refine.min_score=0.3", shard="2/2")
    with pytest.raises(CacheError, match="num_shards: stored 2, given 3"):
        refine("run", "refine.prompt=none", shard="2/3")


def test_refine__without_sam__keeps_the_masks_of_the_teacher(refine, tmp_path):
    refine("run", "refine.prompt=none", "sam.model=absent.pt")
    for columns in labels_of(tmp_path / "run/cache").values():
        np.testing.assert_array_equal(columns["bits"], columns["raw_bits"])
        assert np.isnan(columns["pred_iou"]).all()


def test_refine__no_pseudo_label_at_all__stops_with_a_histogram(refine, tmp_path):
    with pytest.raises(UserError, match=r"no pseudo-label for any of 6 images(.|\n)*0\.\d0 - 0\.\d5 +\d+  #"):
        refine("run", "refine.prompt=none", "refine.min_score=0.99")
    assert not (tmp_path / "run/cache/CURRENT.json").exists()


def test_refine__unreadable_images__are_refused_beyond_the_limit_and_labelled_once_mended(
    refine, experiment, tmp_path
):
    data = tmp_path / "data"
    shutil.copytree(experiment / "data", data)
    broken = data / "train/train_00003.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:500])
    settings = ("refine.prompt=none", f"data.root={data}")
    with pytest.raises(UserError, match=r"1 unlabelled images cannot be used(.|\n)*train_00003.png"):
        refine("run", *settings)
    refine("skipped", *settings, "refine.max_unreadable=1")
    published = Generation(tmp_path / "skipped/cache", 1).published()
    assert published["statistics"]["unreadable images"] == 1
    assert len(labels_of(tmp_path / "skipped/cache")[4]["label"]) == 0
    broken.write_bytes(whole)
    refine("run", *settings)
    assert len(labels_of(tmp_path / "run/cache")[4]["label"]) > 0


def test_refine__stored_embeddings__spare_the_encoder_and_change_nothing(refine, tmp_path, monkeypatch):
    refine("run", "cache.embeddings=True")
    monkeypatch.setattr(BatchedSam, "_encode_batch", None)  # calling it would fail
    monkeypatch.setattr(build, "open_store", lambda folder, *_: EmbeddingStore(folder))
    cache = tmp_path / "run/cache"
    shutil.copytree(cache, tmp_path / "first")
    shutil.rmtree(cache / "gen-0001")
    (cache / "CURRENT.json").unlink()
    refine("run", "cache.embeddings=True")
    assert_same_labels(cache, tmp_path / "first")


def test_refine__preview__draws_a_picture_and_stores_nothing(refine, tmp_path):
    refine("run", preview=2)
    assert Image.open(tmp_path / "run/preview.png").width > 3 * 384 - 400
    assert not (tmp_path / "run/cache").exists()


def test_refine__terminated__stores_the_batch_at_hand_and_goes_on_later(refine, tmp_path, monkeypatch):
    label = Labeller.label

    def label_and_be_terminated(labeller, photos):
        os.kill(os.getpid(), signal.SIGTERM)
        return label(labeller, photos)

    monkeypatch.setattr(Labeller, "label", label_and_be_terminated)
    with pytest.raises(SystemExit) as end:
        refine("run", *ONE_BY_ONE)
    assert end.value.code == 143
    assert Generation(tmp_path / "run/cache", 1).stored_ids().size == 1
    monkeypatch.setattr(Labeller, "label", label)
    refine("run", *ONE_BY_ONE)
    refine("quiet", *ONE_BY_ONE)
    assert_same_labels(tmp_path / "run/cache", tmp_path / "quiet/cache")


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


def test_run_shards__a_shard_that_fails__gives_its_exit_code():
    assert run_shards(["refine", "absent.py"], ["0", "1"]) == 1
