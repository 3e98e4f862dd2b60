"""Images and annotations on S3, as moto serves it on the loopback: the results of local files."""

from pathlib import Path
from typing import Any

import pytest
import s3fs
from typer.testing import CliRunner

from s4m_cache.errors import CacheError
from s4m_cache.generation import Generation
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.core.explain import explain
from s4m_pipeline.core.locations import cache_location
from s4m_pipeline.experiment.cache_place import experiment_cache
from s4m_stages.cache import app
from s4m_stages.pretrain_teacher import pretrain_teacher
from test_refine.conftest import assert_same_labels


def upload(store: Any, folder: Path, bucket: str) -> str:
    store.mkdir(bucket)
    store.put(f"{folder}/", f"{bucket}/data/", recursive=True)
    return f"data.root=s3://{bucket}/data"


def test_refine__images_in_a_store__have_the_labels_of_local_ones_until_one_is_replaced(
    experiment, refine, store, tmp_path
):
    remote = upload(store, experiment / "data", "photos")
    quick = "refine.prompt=none"
    refine("remote", remote, quick, "refine.workers=2", "cache.part_images=2")
    refine("local", quick)
    assert_same_labels(tmp_path / "remote/cache", tmp_path / "local/cache")

    s3fs.S3FileSystem.clear_instance_cache()
    store.put(f"{experiment}/data/train/train_00003.png", "photos/data/train/train_00004.png")
    (tmp_path / "remote/cache/gen-0001/PUBLISHED.json").unlink()
    with pytest.raises(CacheError, match=r"image changed: s3://photos/data/train/train_00004\.png"):
        refine("remote", remote, quick)


def test_refine__cache_in_a_store__has_the_labels_of_a_local_one(experiment, refine, store, tmp_path):
    store.mkdir("refined")
    for shard in ("1/2", "2/2"):
        refine("remote", "refine.prompt=none", "cache.root=s3://refined/cache", shard=shard)
    refine("local", "refine.prompt=none")

    cache = cache_location("s3://refined/cache")
    assert_same_labels(cache, tmp_path / "local/cache")
    assert not (tmp_path / "remote/cache").exists()
    assert experiment_cache(tmp_path / "remote") == cache
    for command in ("info", "verify"):
        result = CliRunner().invoke(app, [command, "s3://refined/cache", "--json"])
        assert result.exit_code == 0, result.output
    refused = CliRunner().invoke(app, ["gc", "s3://refined/cache"])
    assert "nobody can tell whether a process reads" in str(refused.exception)


def test_refine__object_is_missing_or_the_store_is_gone__is_reported_and_gives_no_labels(
    experiment, refine, server, store, tmp_path, monkeypatch
):
    remote = upload(store, experiment / "data", "incomplete")
    quick = "refine.prompt=none"
    store.rm("incomplete/data/train/train_00003.png")
    with pytest.raises(UserError, match=r"train_00003\.png: no such file"):
        refine("missing", remote, quick)
    stored = Generation(tmp_path / "missing/cache", 1).stored_ids()

    from s4m_pipeline.core import locations

    def refused(path: Path) -> Path:
        raise ConnectionError("refused")

    monkeypatch.setattr(locations, "location", refused)
    with pytest.raises(UserError, match=r"Cannot read s3://incomplete/.*object store fails \(refused\)"):
        refine("missing", remote, quick)
    assert Generation(tmp_path / "missing/cache", 1).stored_ids().tolist() == stored.tolist()


def test_refine__store_cannot_be_reached__is_explained(experiment, refine, store, monkeypatch):
    remote = upload(store, experiment / "data", "unreachable")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(Exception, match="connect") as raised:
        refine("unreachable", remote)
    assert (explain(raised.value) or str(raised.value)).endswith("and repeat the command.")


def test_teacher__trained_from_a_store__learns_as_from_files(tiny_coco, tiny_config, store, tmp_path):
    from safetensors.torch import load_file

    remote = upload(store, tiny_coco.root, "tiny")
    short = ["teacher.iterations=2", "teacher.workers=1"]
    pretrain_teacher(tiny_config, [*short, remote], tmp_path / "remote")
    pretrain_teacher(tiny_config, short, tmp_path / "local")
    remotes, locals_ = (
        load_file(tmp_path / name / "teacher/weights.safetensors") for name in ("remote", "local")
    )
    assert all(remotes[name].equal(locals_[name]) for name in locals_)


def test_data_root__of_an_unknown_store__says_what_to_install(tiny_config, tmp_path):
    with pytest.raises(UserError, match=r"nonsense://data: cannot be read(.|\n)*pip install"):
        pretrain_teacher(tiny_config, ["data.root=nonsense://data"], tmp_path / "run")
