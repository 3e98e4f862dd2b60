import json
import shutil
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from s4m_cache.coco import export_coco
from s4m_cache.errors import CacheError
from s4m_cache.fingerprint import file_hash
from s4m_cache.generations import begin, current, publish
from s4m_cache.reader import CacheReader
from s4m_stages.cache import app
from test_cache.samples import fill, flip_a_bit, make_labels, make_published, make_spec


@pytest.fixture
def root(tmp_path):
    make_published(tmp_path / "cache")
    return tmp_path / "cache"


def run(*arguments, exit_code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, CacheError):
        raise result.exception
    assert result.exit_code == exit_code, result.output
    return result.output


def run_json(*arguments, exit_code=0):
    return json.loads(run(*arguments, "--json", exit_code=exit_code))


def test_info__counts_classes_scores_and_figures(root):
    generation = begin(root, make_spec(teacher="sha256:bbbb"), number=2)
    fill(generation)
    publish(generation, quality={"SQ": 49.4})
    begin(root, make_spec(), number=3)

    body = run_json("info", root, "-g", 2)

    num_instances = sum(len(make_labels(i).instances) for i in range(12))
    assert body["current"] == 2
    assert [(g["num_stored"], g["num_parts"]) for g in body["generations"]] == [(12, 3), (12, 3), (0, 0)]
    assert body["generations"][2]["published_at"] is None
    summary = body["summary"]
    assert summary["num_instances"] == sum(summary["per_class"].values()) == num_instances
    assert sum(summary["score_histogram"]) == num_instances
    assert summary["quality"] == {"SQ": 49.4}
    assert summary["fingerprint"]["teacher"] == "sha256:bbbb"
    table = run("info", root, "-g", 2)
    for text in ("in progress", "person", "SQ", "sha256:bbbb", "12 of 12"):
        assert text in table
    assert "0 instances" in run("info", root)


def test_verify__exit_code_and_image_ids_tell_of_damage(root):
    assert run_json("verify", root)["sound"]
    assert "sound, 12 images" in run("verify", root)
    flip_a_bit(root / "gen-0001/parts/part-0001-000002/score/c.0")

    body = run_json("verify", root, exit_code=1)

    assert body["generations"][0]["damaged_ids"] == [5, 6, 7, 8, 9]
    output = run("verify", root, exit_code=1)
    assert "5 images lost: 5 6 7 8 9" in output and "s4m cache repair" in output


def test_repair__names_the_commands_that_redo_the_images(root):
    flip_a_bit(root / "gen-0001/parts/part-0001-000002/score/c.0")

    assert "s4m refine CONFIG --generation 1 --shard 1/1" in run("repair", root)

    with pytest.raises(CacheError, match="incomplete"):
        run("publish", root)
    fill(begin(root, make_spec()))
    assert "gen-0001 is current" in run("publish", root)
    assert run_json("verify", root)["sound"]


@pytest.mark.parametrize(
    ("place", "option"),
    [
        ("teacher/weights.safetensors", ""),
        ("student/iter_700.pth", " --teacher {}"),
        ("cache/teachers/gen-0001.safetensors", " --teacher {}"),
        ("elsewhere.pth", " --teacher FILE (the one of {})"),
    ],
)
def test_repair__the_commands_name_the_teacher_that_made_the_labels(tmp_path, place, option):
    teacher = tmp_path / place
    for path in (teacher, tmp_path / "teacher/weights.safetensors"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(place.encode() if path == teacher else b"another")
    root = tmp_path / "cache"
    generation = begin(root, make_spec(teacher=file_hash(teacher)))
    fill(generation)
    publish(generation)
    flip_a_bit(root / "gen-0001/parts/part-0001-000002/score/c.0")

    output = run("repair", root)

    shown = option.format(file_hash(teacher) if "FILE" in option else teacher)
    assert f"s4m refine CONFIG --generation 1 --shard 1/1{shown}\n" in output


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: flip_a_bit(folder / "generation.json"),
        lambda folder: (folder / "generation.json").unlink(),
        lambda folder: flip_a_bit(folder / "image_ids.npy"),
        lambda folder: (folder / "image_ids.npy").unlink(),
        lambda folder: shutil.rmtree(folder / "parts"),
    ],
    ids=["spec", "no-spec", "image-ids", "no-image-ids", "no-parts"],
)
def test_verify_and_repair__damaged_description_is_reported_and_the_others_are_done(root, damage):
    make_published(root, number=2)
    flip_a_bit(root / "gen-0002/parts/part-0001-000002/score/c.0")
    damage(root / "gen-0001")

    body = run_json("verify", root, exit_code=1)

    (fault,) = body["faults"]
    assert fault.startswith(f"{root}/gen-0001/")
    assert "Remove that folder and, unless a later generation is current, run" in fault
    assert "s4m cache repair" not in fault
    assert [(g["generation"], g["damaged_ids"]) for g in body["generations"]] == [(2, [5, 6, 7, 8, 9])]
    output = run("repair", root, exit_code=1)
    assert fault in output
    assert "s4m refine CONFIG --generation 2 --shard 1/1" in output


def test_verify__after_the_advice_about_a_damaged_description__is_sound(root):
    (root / "gen-0001/image_ids.npy").unlink()
    with pytest.raises(CacheError, match="Remove that folder"):
        begin(root, make_spec())
    shutil.rmtree(root / "gen-0001")

    make_published(root, number=1)

    assert run_json("verify", root)["sound"]


def test_repair__damaged_current_file_is_restored(root):
    flip_a_bit(root / "CURRENT.json")
    assert run_json("verify", root, exit_code=1)["faults"]
    assert run_json("repair", root)["current_restored"]
    assert current(root).number == 1


def test_diff__of_equal_generations_keeps_all(root):
    make_published(root, number=2)
    body = run_json("diff", root, 1, 2)
    assert (body["num_images"], body["gained"], body["lost"], body["mean_iou"]) == (12, 0, 0, 1.0)
    assert "mean IoU of matches" in run("diff", root, 1, 2)


def test_gc__removes_the_old_generation(root):
    make_published(root, number=2)
    assert run_json("gc", root, "--keep", 2)["removed"] == []
    assert "1 would be removed" in run("gc", root, "--dry-run")
    assert "1 removed" in run("gc", root)


def test_any__experiment_that_has_the_cache__is_taken_for_it(root):
    assert run_json("info", root.parent) == run_json("info", root)
    assert run("verify", root.parent) == run("verify", root)


def test_import__of_an_export_is_published_with_all_instances_but_the_ignored(root, tmp_path):
    with CacheReader.current(root) as reader:
        num_annotations = export_coco(reader, tmp_path / "out.json") - int(
            (reader.column("use_raw") == 2).sum()
        )

    run("import", tmp_path / "other", tmp_path / "out.json")

    assert run_json("info", tmp_path / "other")["summary"]["num_instances"] == num_annotations


def test_gc__folder_that_is_no_cache_is_refused_and_left_as_it_is(tmp_path):
    (tmp_path / ".tmp-of-another-program").mkdir()
    with pytest.raises(CacheError, match="not a cache"):
        run("gc", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".tmp-of-another-program"]


@pytest.mark.parametrize(
    "command", [["info"], ["verify"], ["repair"], ["publish"], ["gc"]], ids=lambda c: c[0]
)
def test_any__missing_cache_is_refused(tmp_path, command):
    with pytest.raises(CacheError, match="not a cache"):
        run(*command, tmp_path / "absent")


def test_help__answers_without_zarr_or_torch():
    code = "import sys, s4m_stages.cache; assert not {'zarr', 'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
