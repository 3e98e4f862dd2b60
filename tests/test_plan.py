"""`s4m plan`: laws of its figures, where they come from, and the operations that it counts with."""

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from s4m_cache.generations import publish
from s4m_pipeline.config.experiment import load_experiment
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.experiment.metrics import append_metrics
from s4m_pipeline.planning.costs import Cost, Costs, refreshes
from s4m_pipeline.planning.estimates import LABEL_BYTES
from s4m_pipeline.planning.operations import NETWORK_FLOP, SAM_FLOP, Speed, measured_speed, peak_of
from s4m_pipeline.planning.plan import Experiment
from s4m_pipeline.refine.record import DEVICE, RATE
from s4m_stages.plan import plan
from tests.conftest import REPOSITORY
from tests.test_cache.samples import begin, fill, make_spec

COCO = REPOSITORY / "configs/coco/coco.py"
ANY_SPEED = Speed("test", 1e12, 2e12, 4e12)


def estimate(
    folder: Path, images: int = 1000, gpus: int = 1, speed: Speed | None = ANY_SPEED, device: str = ""
) -> dict[str, Cost]:
    """Costs of the COCO config by stage."""
    options, config = load_experiment(COCO, [])
    experiment = Experiment(config_path=COCO, config=config, options=options, folder=folder, devices=gpus)
    return {cost.stage: cost for cost in Costs(experiment, images, speed, device).stages()}


def hours(cost: Cost) -> float:
    assert cost.hours is not None
    return cost.hours


def test_costs__twice_the_images__twice_the_labels_and_the_same_iterations(tmp_path: Path) -> None:
    one, two, three = (estimate(tmp_path, count * 10**6) for count in (1, 2, 3))
    assert hours(two["refine"]) == pytest.approx(2 * hours(one["refine"]))
    assert two["refine"].disk_bytes == 2 * one["refine"].disk_bytes
    assert two["teacher"] == one["teacher"]
    growth = hours(two["student"]) - hours(one["student"])
    assert growth == pytest.approx(hours(three["student"]) - hours(two["student"]))
    assert growth == pytest.approx(14 * hours(one["refine"]))  # refreshes: 25,000 to 350,000 of 368,750
    assert two["student"].disk_bytes - one["student"].disk_bytes == LABEL_BYTES * 10**6


def test_costs__twice_the_gpus__half_the_hours_until_the_batch_is_divided(tmp_path: Path) -> None:
    one, two, many = (estimate(tmp_path, gpus=count) for count in (1, 2, 64))
    for stage, cost in one.items():
        assert hours(two[stage]) == pytest.approx(hours(cost) / 2)
        assert two[stage].disk_bytes == cost.disk_bytes
    assert hours(many["refine"]) == pytest.approx(hours(one["refine"]) / 64)
    assert {stage: cost.gpus for stage, cost in many.items()} == {"teacher": 16, "refine": 64, "student": 6}
    assert many["student"].limit == "batch size: 58 GPUs remain idle"


def test_costs__of_coco_at_the_peak__are_those_of_the_documentation(tmp_path: Path) -> None:
    found = estimate(tmp_path, 115_921, speed=peak_of("h200"))
    flop = {stage: 3600 * 989e12 * hours(cost) for stage, cost in found.items()}
    assert flop["teacher"] == pytest.approx(21.1e18, rel=0.03)
    assert flop["student"] == pytest.approx(13.9e18 + 14 * flop["refine"], rel=0.03)
    assert all(cost.hours_from == "counted: peak of h200" for cost in found.values())


def test_costs__what_limits__is_said(tmp_path: Path) -> None:
    small = estimate(tmp_path, speed=peak_of("3090"))
    assert small["student"].limit.startswith("memory: 63 GB on each GPU")
    assert small["refine"].limit == "operations of the networks"
    slow = peak_of("h200")._replace(bytes_per_s=1e11)
    assert estimate(tmp_path, speed=slow)["student"].limit == "memory traffic of activations"
    huge = estimate(tmp_path, 10**8)
    assert huge["refine"].limit == "memory: a list of 86 GB in each process"
    assert huge["student"].limit == "iterations: 4.4% of the images are drawn"


def test_costs__nothing_measured_nor_counted__no_hours_and_the_reason(tmp_path: Path) -> None:
    for cost in estimate(tmp_path, speed=None).values():
        assert cost.hours is None
        assert cost.hours_from.startswith("not measured") and cost.disk_from.startswith("counted")


def test_costs__recorded_training__is_measured_and_scales_with_its_devices(tmp_path: Path) -> None:
    write_training(tmp_path / "teacher", device="NVIDIA H200", devices=4)
    cost = estimate(tmp_path, gpus=2, speed=None)["teacher"]
    assert hours(cost) == pytest.approx(368_750 * 0.5 * 4 / 2 / 3600)  # the median of its records
    assert (cost.hours_from, cost.limit) == ("measured: teacher, NVIDIA H200", "reading of images")
    assert estimate(tmp_path, gpus=2, speed=None, device="h200")["teacher"] == cost
    other = estimate(tmp_path, speed=peak_of("a100"), device="a100")["teacher"]
    assert other.hours_from == "counted: peak of a100"


def write_training(folder: Path, device: str, devices: int) -> None:
    """What a training of the config leaves behind."""
    folder.mkdir()
    run = {"config": {"teacher": {"batch_size": 16, "accumulate": 2}}}
    sessions = [{"device": device, "batch_parts": 2 * devices}, {"host": "it has only begun"}]
    (folder / "run.json").write_text(json.dumps({**run, "sessions": sessions}))
    for step, seconds in enumerate([9.0, 0.5, 0.4]):
        append_metrics(
            folder, {"step": step, "seconds_per_step": seconds, "data_seconds_per_step": 0.7 * seconds}
        )


def test_costs__published_labels__are_measured_in_speed_and_size(tmp_path: Path) -> None:
    generation = begin(tmp_path / "cache", make_spec())
    fill(generation)
    statistics = {RATE: 8.0, DEVICE: "cpu", "seconds: teacher": 3.0, "seconds: masks": 1.0}
    publish(generation, statistics=statistics)
    found = estimate(tmp_path, 36_000, speed=None)
    cost = found["refine"]
    assert hours(cost) == pytest.approx(36_000 / 8 / 3600)
    assert (cost.hours_from, cost.limit) == ("measured: gen-0001, cpu", "teacher")
    stored = sum(file.stat().st_size for file in (generation.path / "parts").rglob("*") if file.is_file())
    assert cost.disk_bytes == pytest.approx(3000 * stored, rel=0.4)  # without manifests and metadata
    assert cost.disk_from == "measured: gen-0001"
    assert "not measured" in found["student"].hours_from and "gen-0001" in found["student"].hours_from
    elsewhere = estimate(tmp_path, 36_000, speed=peak_of("h200"), device="h200")["refine"]
    assert elsewhere.hours_from.startswith("counted") and elsewhere.disk_from.startswith("counted")


def test_measured_speed__table_of_the_benchmark__gives_flop_per_second(tmp_path: Path) -> None:
    names = ("matrix product", "network, forward, 8 images", "network, forward and backward, 8 images")
    rows = [[name, "2.00", f"0.{n}", "-", "-"] for n, name in enumerate((*names, "SAM's encoder, 8"), 1)]
    path = tmp_path / "limits.json"
    path.write_text(json.dumps({"limits": {"results": [{"title": "a CPU", "rows": rows}]}}))
    assert measured_speed(path) == Speed("a CPU, limits.json", 2e9 / 0.3, 2e9 / 0.2, 2e9 / 0.4)
    for broken in ("{}", '{"limits": {"results": []}}', "no JSON"):
        path.write_text(broken)
        with pytest.raises(UserError, match="s4m bench limits --json"):
            measured_speed(path)


def test_flop__of_the_small_network_and_sam__are_those_that_torch_counts() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    from s4m_pipeline.models.load import build_network
    from s4m_pipeline.sam import BatchedSam, Prompts, load_sam, similarity_rows

    meta = torch.device("meta")  # no numbers, so no time
    _, config = load_experiment(REPOSITORY / "configs/demo/demo.py", [])
    network = build_network(config, 4).eval().to(meta)
    sam = BatchedSam(load_sam("nano").network, device=meta)
    photo, image = torch.empty(3, 128, 128, dtype=torch.uint8), torch.empty(1, 3, 128, 128, device=meta)
    embedding = sam.encode([photo])
    points, one = torch.zeros(1, 50, 2), torch.zeros(50, dtype=torch.long)
    runs = {
        NETWORK_FLOP["small"] * 128**2: lambda: network.panoptic_head(network.extract_feat(image), []),
        SAM_FLOP["nano"].encoder: lambda: sam.encode([photo]),
        SAM_FLOP["nano"].prompt * 50: lambda: sam.decode(
            embedding, one, Prompts(points_xy_px=points[0, :, None])
        ),
        SAM_FLOP["nano"].point * 50: lambda: similarity_rows(sam, embedding, points),
    }
    for expected, run in runs.items():
        counter = FlopCounterMode(display=False)
        counter.mod_tracker = nullcontext()  # type: ignore[assignment]
        counter.mod_tracker.parents = {"Global"}  # type: ignore[attr-defined]
        with counter, torch.no_grad():
            run()
        assert counter.get_total_flops() == pytest.approx(expected, rel=0.1)


def test_refreshes__of_the_shipped_configs__are_as_documented() -> None:
    for name, expected in (("cityscapes/cityscapes", 15), ("coco/coco", 14), ("demo/demo", 2)):
        options, _ = load_experiment(REPOSITORY / f"configs/{name}.py", [])
        assert refreshes(options.require_student()) == expected


def test_plan__of_the_tiny_experiment__counts_its_own_images(
    tiny_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unlabeled = ["data.unlabeled=train.json"]
    plan(tiny_config, gpu="h200", overrides=unlabeled, work_dir=tmp_path)
    said = capsys.readouterr().out
    assert said.startswith("6 unlabeled images\n") and " on 1 device(s), " in said
    assert said.count("(counted: peak of h200)") == said.count(" on 1 device(s), ") == said.count("limit: ")
    with pytest.raises(UserError, match=r"--gpu h201: unknown. Expected one of h200, "):
        plan(tiny_config, gpu="h201", overrides=unlabeled, work_dir=tmp_path)
    with pytest.raises(UserError, match="--images N"):
        plan(tiny_config, overrides=["data.unlabeled=None"], work_dir=tmp_path)
