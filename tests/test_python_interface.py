"""`from s4m_pipeline import ...`: what it offers, and that importing it costs nothing."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import s4m_pipeline
from s4m_cache.errors import CacheError
from s4m_cache.generation import Generation, GenerationSpec
from s4m_cache.generations import begin, publish
from s4m_cache.records import ImageLabels, Instances
from s4m_cache.sharding import ShardSpec
from s4m_cache.writer import ShardWriter
from s4m_pipeline import UserError, read_pseudo_labels, run
from tests.conftest import REPOSITORY


def test_package__import_takes_neither_torch_nor_numpy() -> None:
    code = (
        "import sys, s4m_pipeline; print({'torch', 'mmdet', 'mmengine', 'numpy', 'zarr'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_package__every_public_name_is_there_and_documented() -> None:
    page = (REPOSITORY / "docs/python.md").read_text()
    for name in s4m_pipeline.__all__:
        assert getattr(s4m_pipeline, name).__doc__, name
        assert name in dir(s4m_pipeline)
        assert f"`{name}" in page, f"docs/python.md does not speak of {name}"


def test_package__unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'predictor_of_weather'"):
        _ = s4m_pipeline.predictor_of_weather


def label(root: Path, number: int, score: float, ids: tuple[int, ...] = (3, 5)) -> Generation:
    spec = GenerationSpec(image_ids=[3, 5], classes=["car"], category_ids=[7], num_shards=1, fingerprint={})
    generation = begin(root, spec, number)
    with ShardWriter(generation, ShardSpec(1, 1)) as writer:
        for image_id in ids:
            instances = Instances.create(masks=np.ones((1, 4, 6), bool), labels=[0], scores=[score])
            writer.append(ImageLabels(image_id=image_id, height=4, width=6, instances=instances))
    return generation


def test_read_pseudo_labels__experiment_and_cache_give_the_published_generation(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    publish(label(root, 1, 0.5))
    label(root, 2, 0.75, ids=(3,))  # not published
    for folder in (tmp_path, root, str(tmp_path)):
        with read_pseudo_labels(folder) as labels:
            assert labels.generation.spec.classes == ("car",)
            assert labels.image_ids.tolist() == [3, 5]
            assert labels.read(5).dense().shape == (1, 4, 6)
            assert labels.read(3).instances.scores.tolist() == [0.5]
    with read_pseudo_labels(tmp_path, 2) as labels:
        assert labels.read(3).instances.scores.tolist() == [0.75]


def test_read_pseudo_labels__nothing_there_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no pseudo-labels found"):
        read_pseudo_labels(tmp_path)
    label(tmp_path / "cache", 1, 0.5)
    with pytest.raises(CacheError, match="no generation is published"):
        read_pseudo_labels(tmp_path)


def test_run__fault_of_the_config_or_of_a_stage__is_a_user_error(
    tiny_config: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=r"teacher.iterations: 0 given"):
        run(tiny_config, overrides=["teacher.iterations=0"], work_dir=tmp_path)
    with pytest.raises(UserError, match=r"`s4m run .* ended with exit code 1; its message is printed above"):
        run(tiny_config, until="teacher", overrides=["data.labeled=absent.json"], work_dir=tmp_path)
    assert "data.labeled: no such file" in capfd.readouterr().err
