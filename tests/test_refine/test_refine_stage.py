"""`s4m refine` from images to a published generation."""

from test_refine.conftest import NUM_UNLABELED, ODD_SIZES, assert_same_labels, labels_of


def test_refine__labels_do_not_depend_on_shards_batches_or_order(refine, tmp_path):
    refine("whole")
    for shard in ("3/4", "1/4", "4/4", "2/4"):  # in any order
        refine("shards", shard=shard)
    refine("single", "refine.batch_size=1")
    whole = labels_of(tmp_path / "whole/cache")
    counts = [len(columns["label"]) for columns in whole.values()]
    assert len(whole) == NUM_UNLABELED
    assert min(counts) > 0  # else the comparison would prove little
    for image_id, (width, height) in ODD_SIZES.items():
        assert whole[image_id]["image_hw"].tolist() == [[height, width]]
    assert_same_labels(tmp_path / "whole/cache", tmp_path / "shards/cache")
    assert_same_labels(tmp_path / "whole/cache", tmp_path / "single/cache")
