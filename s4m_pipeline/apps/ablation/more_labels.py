"""Make the data of the table `suggest`: labels of suggested images, and of as many random ones.

The true annotations take the place of a person. For each seed of the table's row `before`:
    OUT/SEED/suggested/{labeled,unlabeled}.json, OUT/SEED/random/{labeled,unlabeled}.json

Command: python -m s4m_pipeline.apps.ablation.more_labels TABLE.json TRUTH.json IMAGES OUT COUNT
"""

import json
import sys
from pathlib import Path

import numpy as np

from s4m_pipeline.core.paths import SUGGESTED
from s4m_pipeline.core.processes import call
from s4m_pipeline.data.coco import load_coco
from s4m_pipeline.data.labeled import held_out_sets
from s4m_pipeline.data.split_files import write_split
from s4m_pipeline.data.splits import read_list, split_listed
from s4m_pipeline.data.unlabeled import unlabeled_of
from s4m_pipeline.experiment.recorded import experiment_data


def write_splits(folder: Path, truth_json: Path, images: Path, out: Path, seed: int, count: int) -> None:
    """Two splits with `count` more labels than an experiment has, whose suggestions are in its folder.

    Args:
        truth_json: annotations of all its images.
        images: their folder.
        seed: decides which images are the random ones.
    """
    data = experiment_data(folder)
    truth = load_coco(truth_json, images)
    labeled = [image.file_name for image in load_coco(data.path(data.labeled), images).images]
    names = sorted(image.file_name for image in unlabeled_of(data).images)
    added = {
        "suggested": read_list(folder / SUGGESTED)[:count],
        "random": np.random.default_rng(seed).choice(names, count, replace=False).tolist(),
    }
    validation = held_out_sets(data)
    for name, chosen in added.items():
        (out / name).mkdir(parents=True, exist_ok=True)
        list_path = out / name / "labeled.txt"
        list_path.write_text("\n".join([*labeled, *chosen]) + "\n", encoding="utf-8")
        write_split(truth, split_listed(truth, list_path, validation), validation, out / name)


def main(table_json: str, truth_json: str, images: str, out: str, count: str) -> None:
    """Suggest images in each experiment of the row `before`, and write its splits."""
    for key, folder in json.loads(Path(table_json).read_text())["folder"].items():
        row, _, seed = key.rpartition("-")
        if row == "before":
            call(["suggest", folder, "--count", count])
            write_splits(
                Path(folder), Path(truth_json), Path(images), Path(out) / seed, int(seed), int(count)
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
