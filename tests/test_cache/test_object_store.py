"""A cache in an object store, as moto serves S3 on the loopback: writes that fail, conflicts, damage."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import s3fs
import upath

from s4m_cache.errors import CacheError, DamagedError, LockedError
from s4m_cache.generation import Generation
from s4m_cache.generations import begin, collect_garbage, current_number, generations, publish
from s4m_cache.reader import CacheReader
from s4m_cache.records import ImageLabels, Instances
from s4m_cache.schema import CHUNK_BYTES
from s4m_cache.sharding import ShardSpec
from s4m_cache.storage import storage
from s4m_cache.verify import repair, verify
from s4m_cache.writer import ShardWriter
from test_cache.samples import assert_same_labels, fill, make_labels, make_published, make_spec

REPOSITORY = Path(__file__).parents[2]
IMAGE_IDS = range(4)

KILLED_WRITER = """
import os, signal, sys
import s3fs
from s4m_pipeline.core.locations import cache_location
from test_cache.test_object_store import label_everything

call = s3fs.S3FileSystem._call_s3

async def call_or_die(self, method, *args, **kwargs):
    if method == "put_object" and kwargs["Key"].endswith(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return await call(self, method, *args, **kwargs)

s3fs.S3FileSystem._call_s3 = call_or_die
label_everything(cache_location(sys.argv[1]))
"""


@pytest.fixture
def root(store: Any, request: pytest.FixtureRequest) -> Path:
    """An empty cache of this test."""
    from s4m_pipeline.core.locations import cache_location

    if not store.exists("caches"):
        store.mkdir("caches")
    return cache_location(f"s3://caches/{request.node.name}")


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The last part of the key of each object that is written."""
    keys: list[str] = []
    watch(monkeypatch, lambda kwargs: keys.append(kwargs["Key"].rpartition("/")[2]))
    return keys


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes that each request for content brought."""
    sizes: list[int] = []
    call = s3fs.S3FileSystem._call_s3

    async def counted(self: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        answer = await call(self, method, *args, **kwargs)
        if method == "get_object":
            sizes.append(answer["ContentLength"])
        return answer

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", counted)
    return sizes


def watch(monkeypatch: pytest.MonkeyPatch, before: Any) -> None:
    """Call `before` with the arguments of each request that writes an object."""
    call = s3fs.S3FileSystem._call_s3

    async def watched(self: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        if method == "put_object":
            before(kwargs)
        return await call(self, method, *args, **kwargs)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", watched)


def label_everything(root: Path) -> None:
    """Begin, write what is pending and publish: 3 images in a part, and one."""
    generation = begin(root, make_spec(IMAGE_IDS))
    fill(generation, max_images=3)
    publish(generation)


def contents(generation: Generation) -> list[dict[str, bytes]]:
    """The files of each part by their path in it, the part with the first image first."""
    parts = sorted(generation.parts(), key=lambda part: part.image_ids[0])
    return [storage(part.path).read_files(part.path, [*part.files, "MANIFEST.json"]) for part in parts]


def assert_whole(root: Path) -> None:
    with CacheReader.current(root) as reader:
        assert reader.image_ids.tolist() == list(IMAGE_IDS)
        for labels in reader.read_many(IMAGE_IDS, raw=True):
            assert_same_labels(labels, make_labels(labels.image_id))


def test_generation__in_a_store__has_the_bytes_of_a_local_one(root, tmp_path, written):
    label_everything(root)
    label_everything(tmp_path)

    assert contents(Generation(root, 1)) == contents(Generation(tmp_path, 1))
    assert_whole(root)
    assert verify(Generation(root, 1)).sound
    ends = [key for key in written if key.endswith(".json") and key != "zarr.json"]
    assert ends == ["generation.json", "MANIFEST.json", "MANIFEST.json", "PUBLISHED.json", "CURRENT.json"]


@pytest.mark.parametrize("key", ["generation.json", "MANIFEST.json", "PUBLISHED.json"])
def test_writes__fail_from_one_on__leave_nothing_half_and_the_next_command_completes_it(
    root, key, monkeypatch
):
    with monkeypatch.context() as patch:
        gone = []

        def refuse(kwargs: dict[str, Any]) -> None:
            gone.extend([True] * kwargs["Key"].endswith(key))
            if gone:
                raise ConnectionError("refused")

        watch(patch, refuse)
        with pytest.raises(CacheError, match=r"cannot write s3://caches/.*refused.*same command"):
            label_everything(root)

    assert [known.name for known in generations(root)] == (["gen-0001"] if key != "generation.json" else [])
    for known in generations(root):
        assert verify(known).damages == []
        stored = list(IMAGE_IDS) if key == "PUBLISHED.json" else []
        assert known.stored_ids().tolist() == stored
    with pytest.raises(CacheError, match="no generation is published"):
        CacheReader.current(root)
    label_everything(root)
    assert_whole(root)


def test_writer__killed_before_the_manifest__leaves_no_part_and_the_next_one_completes_it(root):
    paths = [REPOSITORY, REPOSITORY / "cache", REPOSITORY / "tests", *sys.path]
    done = subprocess.run(
        [sys.executable, "-c", KILLED_WRITER, str(root), "MANIFEST.json"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
        timeout=500,
    )
    assert done.returncode == -signal.SIGKILL
    assert Generation(root, 1).part_paths() == []
    label_everything(root)
    assert_whole(root)


def test_readers__while_a_generation_is_published__see_the_old_one_or_the_new_one(root, monkeypatch):
    make_published(root, IMAGE_IDS)
    seen = []

    def look(kwargs: dict[str, Any]) -> None:
        if kwargs["Key"].endswith("CURRENT.json"):
            raise ConnectionError("refused")

    with monkeypatch.context() as patch:
        watch(patch, look)
        with pytest.raises(CacheError, match="refused"):
            make_published(root, IMAGE_IDS, number=2, teacher="sha256:bbbb")
    for _ in range(2):
        with CacheReader.current(root) as reader:
            seen.append((reader.generation.number, len(reader)))
        make_published(root, IMAGE_IDS, number=2, teacher="sha256:bbbb")
    assert seen == [(1, len(IMAGE_IDS)), (2, len(IMAGE_IDS))]


def test_writers__two_of_one_shard__store_images_twice_and_mix_nothing(root):
    generation = begin(root, make_spec(IMAGE_IDS))
    with ShardWriter(generation, ShardSpec(1, 1), max_images=3) as one:
        other = ShardWriter(generation, ShardSpec(1, 1))
        for image_id in IMAGE_IDS:
            one.append(make_labels(image_id))
            other.append(make_labels(image_id))
        other.commit()
    publish(generation)

    assert len(generation.parts()) == 3
    assert verify(generation).sound
    assert_whole(root)


def test_publish__a_later_one_is_published_in_between__does_not_go_back(root, monkeypatch):
    first, second = (begin(root, make_spec(IMAGE_IDS), number) for number in (1, 2))
    fill(first)
    fill(second)
    published = Generation.published

    def slow(generation: Generation) -> Any:  # asked for once the number has been compared
        monkeypatch.undo()
        publish(second)
        return published(generation)

    monkeypatch.setattr(Generation, "published", slow)
    with pytest.raises(CacheError, match="later generation 2 is current"):
        publish(first)
    assert current_number(root) == 2
    publish(first, back=True)
    assert current_number(root) == 1


def test_begin__beside_another_list_of_images__is_refused(root, monkeypatch):
    def refuse(kwargs: dict[str, Any]) -> None:
        if kwargs["Key"].endswith("generation.json"):
            raise ConnectionError("refused")

    with monkeypatch.context() as patch:
        watch(patch, refuse)
        with pytest.raises(CacheError, match="refused"):
            begin(root, make_spec(IMAGE_IDS))
    with pytest.raises(CacheError, match=r"image_ids\.npy was left by a command that was killed"):
        begin(root, make_spec(range(3)))
    label_everything(root)
    with pytest.raises(CacheError, match="image_ids: stored 4 entries, given 3"):
        begin(root, make_spec(range(3)))


def test_store__that_ignores_conditions__is_refused(root, monkeypatch):
    watch(monkeypatch, lambda kwargs: kwargs.pop("IfNoneMatch", None))
    with pytest.raises(CacheError, match="although it is told not to"):
        begin(root, make_spec())


def test_part__object_missing_cut_or_changed__is_damage_and_never_read(root):
    generation = make_published(root, IMAGE_IDS)
    part = generation.part_paths()[0]
    with CacheReader(generation) as reader:
        image_id = next(id_ for id_ in reader._part(0).image_ids.tolist() if len(make_labels(id_).instances))
    for name, change, problem in (
        ("bits/c.0", lambda data: data[:-1], "bytes, expected"),
        ("bits/c.0", lambda data: b"", "0 bytes, expected"),
        ("score/c.0", lambda data: b"", "0 bytes, expected"),
        ("score/c.0", lambda data: bytes([data[0] ^ 1]) + data[1:], "checksum"),
        ("label/c.0", None, "missing"),
    ):
        data = (part / name).read_bytes()
        if change is None:
            (part / name).unlink()
        else:
            (part / name).write_bytes(change(data))
        with CacheReader(generation) as reader, pytest.raises(DamagedError, match=problem):
            reader.read(image_id)
        assert not verify(generation).sound
        (part / name).write_bytes(data)
    assert verify(generation).sound


def test_reader__of_a_store__an_image_costs_a_request_of_about_its_size(root, requests):
    """Masks that cannot be compressed, of 1.5 chunks each, so that every image is in two of them."""
    rng = np.random.default_rng(0)
    size = 3 * CHUNK_BYTES // 2
    generation = begin(root, make_spec(range(20)))
    with ShardWriter(generation, ShardSpec(1, 1)) as writer:
        for image_id in range(20):
            mask = rng.random((1, size // 256, 2048)) < 0.5
            mask[:, [0, -1]] = mask[:, :, [0, -1]] = True
            instances = Instances.create(masks=mask, labels=[0], scores=[1.0])
            writer.append(ImageLabels(image_id=image_id, height=size // 256, width=2048, instances=instances))
    publish(generation)

    requests.clear()
    with CacheReader.current(root) as reader:
        assert len(requests) <= 5  # the list of parts is none of them
        reader.read(0)
        requests.clear()
        for image_id in (7, 12, 3):
            reader.read(image_id)
        assert len(requests) <= 6  # later versions of Zarr ask for neighboring chunks together
        assert sum(requests) < 1.1 * 6 * CHUNK_BYTES
        requests.clear()
        for image_id in range(20):
            reader.read(image_id)
        assert sum(requests) < 1.1 * 20 * size  # each chunk once
    with CacheReader.current(root, preload_bytes=100 * size) as reader:
        reader.read(0)
        requests.clear()
        reader.read_many(range(20))
        assert requests == []

    part, name = generation.part_paths()[0], "bits/c.0"
    data = bytearray((part / name).read_bytes())
    data[10 * size + CHUNK_BYTES // 2] ^= 1  # in the chunk that is image 10's alone
    (part / name).write_bytes(bytes(data))
    with CacheReader.current(root) as reader:
        assert len(reader.read(0).instances) == 1
        with pytest.raises(DamagedError, match=r"checksum.*Affected images: 10\."):
            reader.read(10)


def test_removal__from_a_store__is_left_to_the_user(root):
    make_published(root, IMAGE_IDS)
    make_published(root, IMAGE_IDS, number=2, teacher="sha256:bbbb")
    assert collect_garbage(root) == []
    with pytest.raises(LockedError, match="nobody can tell whether a process uses it"):
        repair(Generation(root, 1))
    assert [known.number for known in generations(root)] == [1, 2]


def test_cache__of_a_store_without_conditions__is_read_and_not_written(tmp_path):
    make_published(tmp_path / "cache", IMAGE_IDS)
    remote = upath.UPath("memory://cache-of-this-test")
    for file in (tmp_path / "cache").rglob("*"):
        if file.is_file():
            (remote / file.relative_to(tmp_path / "cache").as_posix()).write_bytes(file.read_bytes())

    assert_whole(remote)
    with pytest.raises(CacheError, match="are only read"):
        begin(remote, make_spec(IMAGE_IDS), 2)
