"""A finished experiment whose figures are known: ten scenes of two rectangles, two generations of labels."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from s4m_cache.fingerprint import file_hash
from s4m_cache.generation import GenerationSpec
from s4m_cache.generations import begin, publish
from s4m_cache.records import ImageLabels, Instances
from s4m_cache.sharding import ShardSpec
from s4m_cache.writer import ShardWriter
from s4m_pipeline.apps.report.collect import DataSource, collect
from s4m_pipeline.apps.report.page import write_page
from s4m_pipeline.config.groups import DataOptions
from s4m_pipeline.data.coco import load_coco
from s4m_pipeline.data.unlabeled import load_unlabeled
from s4m_pipeline.data.writing import mask_annotation
from s4m_pipeline.evaluation.matches import Matches
from s4m_pipeline.experiment.evaluation_file import matches_file, predictions_file, write_evaluation
from tests.test_report.browser import NAMES, Browser, find_browser

HEIGHT, WIDTH = 48, 64
CLASSES = ("cart", "<b>house</b></script>")
NUM_IMAGES = 10
HOSTILE_NAME = "<img src=x onerror=alert(1)> & 'it'.png"
FIRST_OBJECT = (8, 4, 24, 24)
"""y0, x0, y1, x1 of the object of class 0; the teacher sees it too far right, by the image id in pixels."""
SECOND_OBJECT = (28, 36, 44, 56)
"""Of class 1; the teacher sees it as it is. Generation 2 has lost it in images 1 to 3."""


@dataclass(frozen=True)
class Experiment:
    """An experiment's folder, and the data set beside it."""

    folder: Path
    source: DataSource

    def runs(self) -> dict[str, Any]:
        found = {name: self.folder / name / "run.json" for name in ("teacher", "student")}
        return {name: json.loads(path.read_text()) for name, path in found.items() if path.exists()}

    def contents(
        self,
        *,
        images: int = 6,
        source: DataSource | str | None = None,
        note: Callable[[str], None] = lambda text: None,
    ) -> dict[str, Any]:
        return collect(self.folder, self.runs(), self.folder / "cache", source or self.source, images, note)

    def page(self) -> Path:
        path = self.folder / "report.html"
        write_page(path, self.contents())
        return path


def object_mask(box: tuple[int, int, int, int], shift: int = 0) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    y0, x0, y1, x1 = box
    mask[y0:y1, x0 + shift : x1 + shift] = True
    return mask


def name_of(image_id: int) -> str:
    return HOSTILE_NAME if image_id == NUM_IMAGES else f"{image_id}.png"


@pytest.fixture(scope="session")
def data_source(tmp_path_factory: pytest.TempPathFactory) -> DataSource:
    """The images, their annotations (`all.json`) and the list without them (`unlabeled.json`)."""
    root = tmp_path_factory.mktemp("data")
    images, annotations = [], []
    for image_id in range(1, NUM_IMAGES + 1):
        pixels = np.random.default_rng(image_id).integers(60, 200, (HEIGHT, WIDTH, 3), np.uint8)
        Image.fromarray(pixels).save(root / name_of(image_id))
        images.append({"id": image_id, "file_name": name_of(image_id), "width": WIDTH, "height": HEIGHT})
        for label, (y0, x0, y1, x1) in enumerate((FIRST_OBJECT, SECOND_OBJECT)):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": label + 1,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": (x1 - x0) * (y1 - y0),
                    "iscrowd": 0,
                    "segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]],
                }
            )
    document = {
        "images": images,
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)],
    }
    (root / "unlabeled.json").write_text(json.dumps(document))
    (root / "all.json").write_text(json.dumps({**document, "annotations": annotations}))
    options = DataOptions(
        root=str(root), labeled="all.json", train_images=".", val="all.json", val_images=".",
        unlabeled="unlabeled.json",
    )  # fmt: skip
    return DataSource(data=options, ground_truth="all.json")


def write_training(folder: Path, stage: str, data: DataOptions) -> None:
    """run.json and metrics.jsonl of a finished training of 40 steps."""
    folder.mkdir()
    run = {
        "stage": stage,
        "status": "finished",
        "config": {
            folder.name: {"iterations": 40, "batch_size": 4, "seed": 7},
            "data": {name: value for name, value in vars(data).items() if value is not None},
            "refine": {"ground_truth": "all.json"},
        },
        "data": {"all.json": "ab" * 32},
        "sessions": [
            {
                "started": "2026-01-02T03:00:00+00:00",
                "ended": "2026-01-02T03:01:05+00:00",
                "device": "cpu",
                "host": "here",
            },
            {
                "started": "2026-01-02T04:00:00+00:00",
                "ended": "2026-01-02T04:00:55+00:00",
                "device": "cpu",
                "host": "<i>there</i>",
            },
        ],
        "versions": {"python": "3.11.7", "torch": None},
        "git": {"commit": "c0ffee", "changed": True},
        "result": {"step": 40, "AP": 20.0},
    }
    (folder / "run.json").write_text(json.dumps(run))
    records: list[dict[str, Any]] = [
        {
            "step": step,
            "loss": 40 / step,
            "loss_cls": 1.0,
            "d0.loss_cls": 9.0,
            "unsup_d1.loss_cls": 9.0,
            "lr": 0.1,
        }
        for step in range(10, 41, 10)
    ]
    records[2:2] = [{"step": 20, "seconds": 1.0, "val_AP": 10.0, "val_AP50": 20.0}]
    records.append({"step": 40, "seconds": 1.0, "val_AP": 20.0, "val_AP50": float("nan")})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


MEASURED = {"images": 3, "objects": 9, "instances": 8, "SQ": 70.0, "CA": 50.0, "recall": None}


def write_generation(root: Path, number: int, data: DataOptions, held_out: float) -> None:
    """A published generation; see `FIRST_OBJECT` and `SECOND_OBJECT` for what it holds."""
    digest = load_unlabeled(data.path("unlabeled.json"), data.path(".")).digest
    spec = GenerationSpec(
        image_ids=list(range(1, NUM_IMAGES + 1)),
        classes=CLASSES,
        category_ids=(1, 2),
        num_shards=1,
        fingerprint={"teacher": f"sha256:{number}", "image names": digest},
    )
    generation = begin(root, spec, number)
    with ShardWriter(generation, ShardSpec(1, 1)) as writer:
        for image_id in range(1, NUM_IMAGES + 1):
            refined = [object_mask(FIRST_OBJECT), object_mask(SECOND_OBJECT)]
            raw = [object_mask(FIRST_OBJECT, image_id), object_mask(SECOND_OBJECT)]
            count = 1 if number == 2 and image_id <= 3 else 2
            instances = Instances.create(
                masks=np.stack(refined[:count]),
                raw_masks=np.stack(raw[:count]),
                labels=[0, 1][:count],
                scores=[0.95, 0.75][:count],
                ignored=[False, image_id == 1][:count],
            )
            writer.append(ImageLabels(image_id=image_id, height=HEIGHT, width=WIDTH, instances=instances))
    publish(
        generation,
        quality={
            "SQ before": 80.0,
            "SQ after": 90.0,
            "CA before": 50.0,
            "CA after": None,
            "held_out": {"PQ": held_out},
            "masks": {
                "none": {**MEASURED, "PQ": 30.0},
                "box": {**MEASURED, "PQ": held_out, "PQ difference": [held_out - 30, 2.0, 21.5]},
            },
            "masks taken": "box",
            "masks taken because": "more than chance",
        },
        statistics={"seconds: teacher": 1.5},
    )


def write_predictions(folder: Path, data: DataOptions, scores: dict[str, dict[str, Any]]) -> None:
    """What `s4m evaluate` keeps. The teacher's shifted masks are too far off from image 7 on; the student
    takes the second object of image 1 for the first class."""
    truth = load_coco(*data.split("val"))
    measured_by = {"annotations": file_hash(truth.json_path)}
    for stage, score in scores.items():
        results = []
        for image_id in range(1, NUM_IMAGES + 1):
            shift = image_id if stage == "teacher" else 0
            masks = [object_mask(FIRST_OBJECT, shift), object_mask(SECOND_OBJECT)]
            swapped = stage == "student" and image_id == 1
            for category_id, mask in zip((1, 1 if swapped else 2), masks, strict=True):
                result = {**mask_annotation(mask, image_id, 0, category_id), "score": 0.9}
                results.append(
                    {key: result[key] for key in ("image_id", "category_id", "segmentation", "score")}
                )
        weights = folder / stage / "weights.safetensors"
        weights.write_bytes(stage.encode())
        Matches.of(truth, results).save(matches_file(folder / stage, "val"))
        predictions_file(folder / stage, "val").write_text(json.dumps(results))
        write_evaluation(weights, "val", {**score, "conditions": measured_by})


def write_experiment(folder: Path, source: DataSource, *, until: str = "student") -> Experiment:
    """An experiment that has got as far as `teacher`, `cache` or `student`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_training(folder / "teacher", "pretrain-teacher", source.data)
    if until != "teacher":
        write_generation(folder / "cache", 1, source.data, held_out=40.0)
    if until == "student":
        write_training(folder / "student", "train-student", source.data)
        write_generation(folder / "cache", 2, source.data, held_out=44.0)
        history = [
            {"step": 20, "made": 2, "generation": 2, "decision": "taken", "quality": {}, "statistics": {}},
            {
                "step": 30,
                "made": 3,
                "generation": 2,
                "decision": "rejected",
                "quality": {"held_out": {"PQ": 30.0}},
            },
        ]
        lines = [json.dumps(record) for record in history] + ['{"step": 4']
        (folder / "student/generations.jsonl").write_text("\n".join(lines))
        result = {
            "AP": 20.0,
            "AP50": 40.0,
            "merged_rate": 2.0,
            "per_class": dict.fromkeys(CLASSES, 20.0),
            "images": 3,
        }
        better = {
            **result,
            "AP": 23.5,
            "merged_rate": None,
            "per_class": {CLASSES[0]: 27.0, CLASSES[1]: None},
        }
        (folder / "evaluation.json").write_text(
            json.dumps({"val": {"teacher": result, "student": better}, "note": "not a split"})
        )
        Image.new("RGB", (90, 30), "teal").save(folder / "similarity.png")
        write_predictions(folder, source.data, {"teacher": result, "student": better})
    return Experiment(folder, source)


@pytest.fixture(scope="session")
def finished(data_source: DataSource, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """Everything done; tests must not write into it."""
    return write_experiment(tmp_path_factory.mktemp("finished") / "<u>work</u>", data_source)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A headless browser, or the test is skipped."""
    executable = find_browser()
    if executable is None:
        pytest.skip(f"no browser on the PATH ({', '.join(NAMES)}); `make browser` installs one")
    with Browser(executable, tmp_path_factory.mktemp("profile")) as started:
        yield started
