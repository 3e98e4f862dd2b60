import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s4m_cache.errors import CacheError
from s4m_cache.sharding import ShardSpec


@given(st.sets(st.integers(-(2**63), 2**63 - 1), max_size=50), st.integers(1, 12), st.randoms())
def test_assigned__shards_are_disjoint_complete_balanced_and_order_does_not_matter(ids, count, random):
    ids = list(ids)
    shuffled = random.sample(ids, len(ids))
    shares = [ShardSpec(i + 1, count).assigned(np.array(ids, np.int64)) for i in range(count)]

    assert sorted(np.concatenate(shares).tolist()) == sorted(ids)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    for i, share in enumerate(shares):
        np.testing.assert_array_equal(share, ShardSpec(i + 1, count).assigned(np.array(shuffled, np.int64)))


def test_parse__counts_from_one():
    assert ShardSpec.parse(" 3/8 ") == ShardSpec(3, 8)
    assert str(ShardSpec(3, 8)) == "3/8"


@pytest.mark.parametrize("text", ["0/8", "9/8", "3", "3/", "a/b", "-1/8", "3/8/2", ""])
def test_parse__anything_else_is_refused(text):
    with pytest.raises(CacheError, match="i from 1 to n"):
        ShardSpec.parse(text)


SLURM = {"SLURM_ARRAY_TASK_ID": "4", "SLURM_ARRAY_TASK_MIN": "2", "SLURM_ARRAY_TASK_COUNT": "8"}


@pytest.mark.parametrize(
    "environ, expected",
    [
        (SLURM, ShardSpec(3, 8)),
        ({"SGE_TASK_ID": "3", "SGE_TASK_FIRST": "1", "SGE_TASK_LAST": "8"}, ShardSpec(3, 8)),
        ({"SGE_TASK_ID": "undefined", "SGE_TASK_FIRST": "undefined", "SGE_TASK_LAST": "undefined"}, None),
        ({"LSB_JOBINDEX": "3", "LSB_JOBINDEX_END": "8"}, ShardSpec(3, 8)),
        ({"LSB_JOBINDEX": "0", "LSB_JOBINDEX_END": "0"}, None),
        ({"AWS_BATCH_JOB_ARRAY_INDEX": "2", "AWS_BATCH_JOB_ARRAY_SIZE": "8"}, ShardSpec(3, 8)),
        ({}, None),
    ],
    ids=["slurm", "sge", "sge-outside", "lsf", "lsf-outside", "aws", "none"],
)
def test_from_environment__job_array_gives_its_share(environ, expected):
    assert ShardSpec.from_environment(environ) == expected


def test_from_environment__array_with_gaps_is_refused():
    with pytest.raises(CacheError, match="gaps"):
        ShardSpec.from_environment(SLURM | {"SLURM_ARRAY_TASK_ID": "40"})
