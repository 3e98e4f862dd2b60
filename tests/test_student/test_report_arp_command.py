"""`s4m report arp`: the pairs are those that a training begins with."""

import numpy as np
import pytest
import torch
from mmengine.runner import Runner
from PIL import Image

from s4m_pipeline.data.labelled import load_labelled
from s4m_pipeline.errors import UserError
from s4m_pipeline.options.experiment import load_experiment
from s4m_pipeline.report.arp import load_pairs, paste_pairs
from s4m_pipeline.report.sheets import GAP_PX, SIDE_PX, TITLE_PX
from s4m_pipeline.student.build import student_dataloader
from s4m_pipeline.student.labels import load_labels
from stages.report import arp


@pytest.fixture(scope="module")
def inputs(student_experiment):
    """Student, config, labelled images and labels, as a training has them."""
    options, parts = load_experiment(student_experiment / "study.py", [])
    train, _ = load_labelled(options.data)
    labels = load_labels(options.data, student_experiment / "work/cache", None, train)
    return options.require_student(), parts, train, labels


def test_arp_command__of_an_experiment__writes_a_row_for_each_image(student_experiment, tmp_path):
    out = tmp_path / "pictures" / "arp.png"
    arp(student_experiment / "study.py", pairs=2, out=out, work_dir=student_experiment / "work")
    assert Image.open(out).size == (4 * (SIDE_PX + GAP_PX), TITLE_PX + 4 * (SIDE_PX + GAP_PX))


def test_load_pairs__of_an_experiment__are_the_first_unlabelled_images_of_its_training(inputs):
    student, parts, train, labels = inputs
    loader = Runner.build_dataloader(student_dataloader(student, parts, train, labels, (2, 2)))
    loader.sampler.generation = labels.generation.number
    batches = iter(loader)
    steps = [next(batches), next(batches)]
    expected = [image for step in steps for image in step["inputs"][2:]]
    masks = [sample.gt_instances.masks for step in steps for sample in step["data_samples"][2:]]
    found = load_pairs(student, parts, train, labels, 2)
    for i, (image, instances) in enumerate(zip(expected, masks, strict=True)):
        height, width = image.shape[1:]
        assert found.sizes_hw[i] == (height, width)
        np.testing.assert_allclose(
            found.pixels_B3HW[i, :, :height, :width].numpy(), image.numpy() / 255, atol=1e-5
        )
        own = instances.to_tensor(torch.bool, "cpu")
        assert torch.equal(found.masks[i][:, :height, :width], own)
    assert sum(map(len, found.masks)) > 0


def test_paste_pairs__in_the_same_place__exchanges_between_neighbours_alone(inputs):
    student, parts, train, labels = inputs
    before = load_pairs(student, parts, train, labels, 2)
    after = paste_pairs(before, student.arp, seed=0)
    unions = [masks.any(dim=0) for masks in before.masks]
    assert any(union.any() for union in unions)
    for image, partner in enumerate([1, 0, 3, 2]):
        height, width = before.sizes_hw[image]
        moved = unions[partner].clone()
        moved[height:], moved[:, width:] = False, False
        expected = torch.where(moved, before.pixels_B3HW[partner], before.pixels_B3HW[image])
        torch.testing.assert_close(after.pixels_B3HW[image], expected)


@pytest.mark.parametrize(
    ("overrides", "out", "message"),
    [
        (["student=null"], "arp.png", "no group `student`"),
        (["student.arp.fraction=0"], "arp.png", "does without ARP"),
        ([], "arp.jpg", "ends in .png"),
    ],
    ids=["no student", "no ARP", "no PNG"],
)
def test_arp_command__that_cannot_be_drawn__is_refused(student_experiment, tmp_path, overrides, out, message):
    with pytest.raises(UserError, match=message):
        arp(
            student_experiment / "study.py",
            out=tmp_path / out,
            overrides=overrides,
            work_dir=student_experiment / "work",
        )
    assert not list(tmp_path.iterdir())
