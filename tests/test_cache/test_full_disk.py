import errno
import os
import resource
import subprocess
from pathlib import Path

import numpy as np
import pytest

from s4m_cache import parts, writer
from s4m_cache.errors import CacheError, DamagedError, disk_error
from s4m_cache.generation import Generation
from s4m_cache.generations import begin, current
from s4m_cache.reader import CacheReader
from s4m_cache.records import ImageLabels, Instances
from s4m_cache.sharding import ShardSpec
from s4m_cache.writer import ShardWriter
from s4m_pipeline.core.explain import explain
from test_cache.samples import fill, make_published, make_spec, unprivileged

BIG_SIDE = 1500


def big_labels(image_id):
    """A quarter of a megabyte that does not compress."""
    noise = np.random.default_rng(image_id).random((1, BIG_SIDE, BIG_SIDE)) < 0.5
    instances = Instances.create(masks=noise, labels=[0], scores=[0.9])
    return ImageLabels(image_id=image_id, height=BIG_SIDE, width=BIG_SIDE, instances=instances)


def write_until_full(root):
    """Begin generation 2 beside a published one and write until the disk is full."""
    generation = begin(root, make_spec(range(40)), number=2)
    with ShardWriter(generation, ShardSpec(1, 1), max_images=1) as writer:
        for image_id in range(40):
            try:
                writer.append(big_labels(image_id))
            except CacheError as error:
                return generation, image_id, error
    raise AssertionError("the disk never filled up")


def check_refusal(root, generation, image_id, error):
    assert "part-0001-" in str(error) and "bytes are free at" in str(error) and "intact" in str(error)
    assert current(root).number == 1
    assert generation.leftovers() == []
    assert generation.stored_ids().tolist() == list(range(image_id))


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_commit__full_disk_is_refused_and_what_was_stored_stays(small_disk):
    make_published(small_disk / "cache")

    generation, image_id, error = write_until_full(small_disk / "cache")

    assert "No space left on device" in str(error)
    check_refusal(small_disk / "cache", generation, image_id, error)

    with ShardWriter(generation, ShardSpec(1, 1)) as writer:
        assert writer.pending[0] == image_id


def test_commit__file_size_limit_is_refused_likewise(tmp_path):
    make_published(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        generation, image_id, error = write_until_full(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert "File too large" in str(error)
    check_refusal(tmp_path, generation, image_id, error)


@pytest.mark.parametrize(
    "code", [errno.EROFS, errno.ESTALE, errno.EDQUOT, errno.EIO], ids=errno.errorcode.get
)
def test_commit__mount_or_quota_fault_is_refused_likewise(tmp_path, monkeypatch, code):
    make_published(tmp_path)

    def write_one_part(path, images):
        if path.name.endswith("2"):
            raise OSError(code, os.strerror(code), str(path))
        parts.write_part(path, images)

    monkeypatch.setattr(writer, "write_part", write_one_part)
    generation, image_id, error = write_until_full(tmp_path)

    assert os.strerror(code) in str(error)
    assert image_id == 1
    check_refusal(tmp_path, generation, image_id, error)


@pytest.mark.parametrize("name", ["generation.json", "CURRENT.json", "MANIFEST.json"])
def test_read__mount_fault_is_no_damage_and_says_what_to_fix(tmp_path, monkeypatch, name):
    make_published(tmp_path)
    read_bytes = Path.read_bytes

    def fail(path):
        if path.name == name:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(CacheError, match=r"cannot read .*Stale file handle.*Fix the mount") as refused:
        CacheReader.current(tmp_path)
    assert not isinstance(refused.value, DamagedError)  # `s4m cache repair` would delete sound labels


def test_begin__full_disk_is_refused_and_leaves_nothing(small_disk):
    root = small_disk / "cache"
    make_published(root)
    with (small_disk / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError):
        while True:
            filler.write(bytes(4096))

    with pytest.raises(CacheError, match="bytes are free at"):
        begin(root, make_spec(range(100_000)), number=2)

    assert sorted(path.name for path in root.iterdir()) == ["CURRENT.json", "LOCK", "gen-0001"]
    (small_disk / "filler").unlink()
    fill(begin(root, make_spec(), number=2))


@pytest.mark.parametrize("answers", [True, False], ids=["above", "nowhere"])
def test_disk_error__folders_that_do_not_answer__names_path_and_free_bytes(tmp_path, monkeypatch, answers):
    path = tmp_path / "mount/run/cache"
    stat, stale = os.stat, tmp_path / "mount" if answers else Path("/")

    def stat_unless_stale(name, *arguments, **options):
        if Path(name).is_relative_to(stale):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(name))
        return stat(name, *arguments, **options)

    error = OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", stat_unless_stale)
        messages = [str(disk_error(path, 4096, error)), explain(error)]

    for message in messages:
        assert f"{path}: Stale file handle" in message
        assert f" bytes are free at {tmp_path if answers else path}." in message


def test_cache__below_a_folder_without_permission__is_refused_by_name(tmp_path):
    make_published(tmp_path / "closed/cache")
    tmp_path.chmod(0o755)
    (tmp_path / "closed").chmod(0)
    root = Path("closed/cache")
    try:
        with unprivileged(tmp_path):
            for use in (
                lambda: begin(root, make_spec()),
                lambda: current(root),
                lambda: Generation(root, 1).pin(),
                lambda: Generation(root, 1).part_paths(),
            ):
                with pytest.raises(CacheError, match=r"cannot read closed/cache.*: Permission denied"):
                    use()
            with pytest.raises(PermissionError) as refused:
                (root / "run.json").touch()
            for message in (str(disk_error(root, 4096, refused.value)), explain(refused.value)):
                assert str(root) in message
                assert " bytes are free at closed." in message
    finally:
        (tmp_path / "closed").chmod(0o700)
