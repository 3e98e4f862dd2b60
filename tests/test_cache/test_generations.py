import pickle
from pathlib import Path

import numpy as np
import pytest

from s4m_cache import sealed
from s4m_cache.embeddings import EmbeddingStore, store_path
from s4m_cache.errors import CacheError, DamagedError, LockedError
from s4m_cache.generation import Generation, GenerationSpec
from s4m_cache.generations import begin, collect_garbage, current, generations, publish, retire
from s4m_cache.reader import CacheReader
from test_cache.samples import fill, make_published, make_spec, unprivileged


def test_begin__again_with_the_same_spec_joins(tmp_path):
    first = begin(tmp_path / "new" / "root", make_spec())
    again = begin(tmp_path / "new" / "root", make_spec(reversed(range(12))))

    assert first == again == Generation(tmp_path / "new" / "root", 1)
    assert again.spec.classes == ("car", "person", "tree")
    assert again.spec.fingerprint == {"teacher": "sha256:aaaa", "score_threshold": 0.7}


@pytest.mark.parametrize(
    "spec, message",
    [
        (make_spec(teacher="sha256:bbbb"), "teacher: stored 'sha256:aaaa', given 'sha256:bbbb'"),
        (make_spec(score_threshold=0.8), "score_threshold: stored 0.7, given 0.8"),
        (make_spec(sam="sha256:cccc"), "sam: stored nothing, given 'sha256:cccc'"),
        (make_spec(range(13)), "image_ids: stored 12 entries, given 13"),
        (make_spec([*range(11), 99]), "image_ids: entry 11 is 11 as stored, 99 as given"),
    ],
    ids=["teacher", "threshold", "sam", "more-images", "other-image"],
)
def test_begin__other_settings_are_refused_with_both_values(tmp_path, spec, message):
    begin(tmp_path, make_spec())

    with pytest.raises(CacheError) as error:
        begin(tmp_path, spec)

    assert message in str(error.value)
    assert "--generation 2" in str(error.value)
    assert generations(tmp_path) == [Generation(tmp_path, 1)]
    assert begin(tmp_path, spec, number=2).number == 2


def test_begin__again_in_another_number_of_shards_keeps_the_first(tmp_path):
    begin(tmp_path, make_spec(num_shards=3))
    again = begin(tmp_path, make_spec(num_shards=2))

    assert [str(shard) for shard in again.shards] == ["1/3", "2/3", "3/3"]
    with pytest.raises(CacheError, match="divided into 3 shards"):
        fill(again, "1/2")


def test_spec__all_faults_come_at_once():
    with pytest.raises(CacheError) as error:
        GenerationSpec(image_ids=[3, 3], classes=("a", "a"), category_ids=(1,), num_shards=0, fingerprint={})
    for fault in ("more than once: 3", "2 classes but 1 category ids", "classes given", "0 shards"):
        assert fault in str(error.value)
    with pytest.raises(CacheError, match=r"teacher \(list\)"):
        make_spec(teacher=["no", "plain", "value"])


def test_current__before_publication_is_refused(tmp_path):
    with pytest.raises(CacheError, match="no generation is published"):
        current(tmp_path)
    begin(tmp_path, make_spec())
    with pytest.raises(CacheError, match="gen-0001"):
        current(tmp_path)


def test_publish__missing_images_are_named_with_commands(tmp_path):
    generation = begin(tmp_path, make_spec(num_shards=3))
    fill(generation, "2/3")

    with pytest.raises(CacheError) as error:
        publish(generation)

    assert "2 of 3 shards are not finished" in str(error.value)
    assert "shard 3/3 lacks 4 of 4 images" in str(error.value)
    assert "s4m refine CONFIG --generation 1 --shard 1/3" in str(error.value)
    assert generation.published() is None


def test_publish__complete_generation_becomes_current_with_its_figures(tmp_path):
    generation = begin(tmp_path, make_spec())
    fill(generation)

    publish(generation, quality={"SQ": 49.4}, statistics={"instances": 33})
    publish(generation, quality={"SQ": 1.0})

    assert current(tmp_path) == generation
    assert generation.published()["quality"] == {"SQ": 49.4}
    assert generation.published()["statistics"] == {"instances": 33}


def test_publish__after_a_later_one_is_refused(tmp_path):
    slow = begin(tmp_path, make_spec())
    fill(slow)
    make_published(tmp_path, number=2)

    with pytest.raises(CacheError, match="later generation 2 is current"):
        publish(slow)
    publish(slow, back=True)
    assert current(tmp_path) == slow
    publish(Generation(tmp_path, 2), back=True)
    retire(slow)
    with pytest.raises(CacheError, match=r"not replaced by earlier ones.*s4m cache publish"):
        begin(tmp_path, make_spec(), number=1)


def test_reader__pinned_during_publish_and_retire_reads_on(tmp_path):
    make_published(tmp_path)
    with CacheReader.current(tmp_path) as reader:
        old = reader.generation
        make_published(tmp_path, number=2, teacher="sha256:bbbb")

        with pytest.raises(LockedError, match="in use"):
            retire(old)
        assert collect_garbage(tmp_path) == []
        assert reader.read(3).image_id == 3
        assert current(tmp_path).number == 2

    assert collect_garbage(tmp_path) == [old.path]
    assert generations(tmp_path) == [current(tmp_path)]


def test_retire__current_generation_is_refused(tmp_path):
    with pytest.raises(CacheError, match="is the current generation"):
        retire(make_published(tmp_path))


def test_pin__retired_generation_is_refused(tmp_path):
    old = make_published(tmp_path)
    make_published(tmp_path, number=2)
    retire(old)

    with pytest.raises(CacheError, match="does not exist"):
        old.pin()
    with pytest.raises(CacheError, match="does not exist"):
        CacheReader(old)


def test_collect_garbage__keeps_what_is_asked_written_or_new(tmp_path):
    for number in (1, 2, 3, 4):
        make_published(tmp_path, [1, 2], number=number)
    begin(tmp_path, make_spec(), number=5)
    (tmp_path / ".tmp-gen-0009-1-abc").mkdir()
    (current(tmp_path).path / "parts" / ".tmp-part-0001-000009-1-abc").mkdir()
    (current(tmp_path).path / ".tmp-PUBLISHED.json-1-abc").touch()

    before = sorted(tmp_path.rglob("*"))
    announced = collect_garbage(tmp_path, keep=2, dry_run=True)
    assert sorted(tmp_path.rglob("*")) == before
    removed = collect_garbage(tmp_path, keep=2)

    assert announced == removed
    assert [generation.number for generation in generations(tmp_path)] == [3, 4, 5]
    kinds = [path.name.split("-00")[0] for path in removed]
    assert kinds == ["gen", "gen", ".tmp-gen", ".tmp-PUBLISHED.json-1-abc", ".tmp-part"]


def test_collect_garbage__refused_generations_go_and_do_not_count_as_kept(tmp_path):
    for number in (1, 2, 3):
        make_published(tmp_path, [1, 2], number=number)
    for number in (4, 5):
        begin(tmp_path, make_spec(), number=number)

    removed = collect_garbage(tmp_path, keep=2, refused=[2, 3, 4])

    assert [path.name for path in removed] == ["gen-0002", "gen-0004"]
    assert [generation.number for generation in generations(tmp_path)] == [1, 3, 5]


def make_store(root, teacher):
    path = store_path(root, {"teacher": teacher})
    EmbeddingStore.create(
        path, image_ids=[1], shapes={"emb": (2, 2)}, fingerprint={"teacher": teacher}, budget_bytes=10**6
    )
    return path


def test_collect_garbage__embeddings_go_with_the_last_generation_made_with_them(tmp_path):
    old, of_old = make_published(tmp_path), make_store(tmp_path, "sha256:aaaa")
    new, of_new = (
        begin(tmp_path, make_spec(teacher="sha256:bbbb"), number=2),
        make_store(tmp_path, "sha256:bbbb"),
    )
    assert collect_garbage(tmp_path) == []
    fill(new)
    publish(new)
    assert collect_garbage(tmp_path, dry_run=True) == [old.path, of_old]
    assert of_old.exists()
    assert collect_garbage(tmp_path) == [old.path, of_old]
    assert not of_old.exists() and of_new.exists()


def test_collect_garbage__embeddings_stay_while_a_damaged_generation_may_need_them(tmp_path):
    description = make_published(tmp_path).path / "generation.json"
    store, whole = make_store(tmp_path, "sha256:bbbb"), description.read_bytes()
    description.write_bytes(whole[:-20])
    assert collect_garbage(tmp_path) == []
    description.write_bytes(whole)
    assert collect_garbage(tmp_path) == [store]


def test_generation__pickles_small(tmp_path):
    generation = make_published(tmp_path)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(generation)).image_ids, range(12))


def test_generation__newer_format_is_refused(tmp_path):
    generation = begin(tmp_path, make_spec())
    body = sealed.read(generation.path / "generation.json")
    body.pop("crc32", None)
    sealed.write(generation.path / "generation.json", body | {"version": 4})

    with pytest.raises(CacheError, match="newer version"):
        Generation(tmp_path, 1).image_ids  # noqa: B018


def test_part__newer_format_is_refused_and_not_taken_for_damage(tmp_path):
    path = make_published(tmp_path).part_paths()[0] / "MANIFEST.json"
    body = sealed.read(path)
    sealed.write(path, body | {"version": 4})

    with pytest.raises(CacheError, match="part-0001-000001: written by a newer version") as refused:
        CacheReader.current(tmp_path)
    assert not isinstance(refused.value, DamagedError)


@pytest.mark.parametrize("name", ["generation.json", "image_ids.npy", "PUBLISHED.json", "../CURRENT.json"])
def test_generation__any_flipped_bit_of_its_files_is_found(tmp_path, name):
    generation = make_published(tmp_path)
    path = generation.path / name
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    for bit in rng.choice(len(data) * 8, min(len(data) * 8, 400), replace=False):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(flipped)
        with pytest.raises(DamagedError):
            fresh = current(tmp_path)
            fresh.spec  # noqa: B018


def test_begin__read_only_folder_is_refused_with_free_bytes(tmp_path):
    tmp_path.chmod(0o555)
    with unprivileged(tmp_path), pytest.raises(CacheError, match=r"Permission denied.* bytes are free at \."):
        begin(Path("cache"), make_spec())
