"""Make the small network's initial weights; RECIPE.md has the order of the commands.

`scenes DIR` writes class-agnostic randomized scenes, without the families of the embedded data set;
`strip WEIGHTS` drops the class layer of a network trained on them.
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from s4m_cache.atomic import atomic_path
from s4m_pipeline.data.scenes.randomized import draw_randomized_scene
from s4m_pipeline.data.scenes.shapes import OTHER_FAMILIES
from s4m_pipeline.data.scenes.writer import Subset, write_scenes

SEED_SPACE = 6  # first word of the generators' seeds: no other scenes of the project use it
SUBSETS = (Subset("train", 0, 12_000), Subset("val", 1, 200))
CLASS_LAYER = "panoptic_head.cls_embed."
SHIPPED = Path(__file__).with_name("demo_init.safetensors")


def write_class_agnostic_scenes(folder: Path) -> None:
    """Write the training and validation scenes to `folder`."""
    write_scenes(
        folder, SUBSETS, OTHER_FAMILIES, (SEED_SPACE, 0), class_agnostic=True, draw=draw_randomized_scene
    )


def strip(weights: Path) -> None:
    """Write the shipped file: everything but the class layer, floating point numbers in fp16."""
    kept = {name: value for name, value in load_file(weights).items() if not name.startswith(CLASS_LAYER)}
    halved = {name: value.half() if value.is_floating_point() else value for name, value in kept.items()}
    assert all(torch.isfinite(value).all() for value in halved.values() if value.is_floating_point())
    with atomic_path(SHIPPED) as path:
        save_file(halved, path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Make the small network's initial weights.")
    parser.add_argument("step", choices=("scenes", "strip"))
    parser.add_argument("path", type=Path, help="folder to write scenes to, or weights to strip")
    arguments = parser.parse_args()
    (write_class_agnostic_scenes if arguments.step == "scenes" else strip)(arguments.path)
