"""What is said when there is nothing to publish."""

from pathlib import Path

import pytest
from test_cache.samples import make_spec

from s4m_cache.generations import begin
from s4m_cache.summary import SCORE_BINS
from s4m_pipeline.config.experiment import load_experiment
from s4m_pipeline.core.paths import CONFIGS
from s4m_pipeline.refine.publish import advise


@pytest.mark.parametrize(
    ("min_score", "said", "settings"),
    [
        (0.25, "\n5 of them are confident", ["min_soft_area=1", "iterations", "min_score=0.2"]),
        (0.7, "\n2 of them are confident", ["min_score=0.3", "min_soft_area=1", "iterations"]),
        (0.9, None, ["min_score=0.3", "iterations", "min_soft_area=1"]),
    ],
)
def test_advise__queries_that_are_confident_but_show_nothing__are_counted(
    tmp_path: Path, min_score: float, said: str | None, settings: list[str]
) -> None:
    histogram = [0] * SCORE_BINS
    histogram[6], histogram[10], histogram[15] = 9, 3, 2  # from 0.3, 0.5 and 0.75
    options, _ = load_experiment(CONFIGS / "demo/demo.py", [])
    recipe = options.refine.model_copy(update={"min_score": min_score})
    options = options.model_copy(update={"refine": recipe})
    message = advise(begin(tmp_path, make_spec()), options, histogram, num_labels=0, objects=2.0)
    assert "  0.75 - 0.80          2  #" in message
    assert (said or "\nMost promising settings") in message
    assert (" are confident enough, but their masks are empty or too small" in message) == (said is not None)
    lines = [line for line in message.splitlines() if line.startswith("  --set")]
    assert all(setting in line for setting, line in zip(settings, lines, strict=True))
