"""Code in a file that is not meant to hold any never runs: there a call that would leave a file behind.

Of checkpoints, SAM's files and images, the tests of their readers say so (docs/reliability.md).
"""

import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from test_cache.samples import make_published

from s4m_cache import sealed
from s4m_cache.errors import DamagedError
from s4m_cache.generation import IMAGE_IDS, SPEC, Generation
from s4m_pipeline.config.experiment import load_experiment
from s4m_pipeline.evaluation.matches import Matches
from tests.conftest import REPOSITORY, CreatesFile


def test_cache__code_in_its_image_ids__is_refused_and_not_run(tmp_path: Path) -> None:
    """With a matching checksum, which whoever writes the code can write, too."""
    generation = make_published(tmp_path / "cache", range(3))
    ids = io.BytesIO()
    np.save(ids, np.array([CreatesFile(tmp_path / "ran")] * 3), allow_pickle=True)
    (generation.path / IMAGE_IDS).write_bytes(ids.getvalue())
    spec = sealed.read(generation.path / SPEC)
    sealed.write(generation.path / SPEC, {**spec, "image_ids_crc32": zlib.crc32(ids.getvalue())})
    with pytest.raises(DamagedError, match=IMAGE_IDS):
        Generation(tmp_path / "cache", 1).spec  # noqa: B018
    assert not (tmp_path / "ran").exists()


def test_matches__code_in_their_arrays__is_not_run(tmp_path: Path) -> None:
    np.savez(tmp_path / "matches.npz", image_ids=np.array([CreatesFile(tmp_path / "ran")]))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        Matches.load(tmp_path / "matches.npz")
    assert not (tmp_path / "ran").exists()


def test_set__code_in_a_value__is_text(tmp_path: Path) -> None:
    code = f"__import__('pathlib').Path({str(tmp_path / 'ran')!r}).touch()"
    options, _ = load_experiment(REPOSITORY / "configs/demo/demo.py", [f"data.labeled={code}"])
    assert options.data.labeled == code
    assert not (tmp_path / "ran").exists()
