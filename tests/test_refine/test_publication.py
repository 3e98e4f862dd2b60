"""What is said when there is nothing to publish."""

from pathlib import Path

import pytest
from test_cache.samples import make_spec

from cache.generations import begin
from cache.summary import SCORE_BINS
from s4m_pipeline.refine.publication import _no_labels


@pytest.mark.parametrize(
    ("min_score", "said"), [(0.25, "\n5 of them are sure"), (0.7, "\n2 of them are sure"), (0.9, None)]
)
def test_no_labels__queries_that_are_sure_but_show_nothing__are_counted(
    tmp_path: Path, min_score: float, said: str | None
) -> None:
    histogram = [0] * SCORE_BINS
    histogram[6], histogram[10], histogram[15] = 9, 3, 2  # from 0.3, 0.5 and 0.75
    message = _no_labels(begin(tmp_path, make_spec()), histogram, min_score)
    assert "  0.75 - 0.80          2  #" in message
    assert (said or "\nTrain the teacher longer") in message
    assert (" are sure enough, but their masks are empty or too small" in message) == (said is not None)
