"""`s4m report arp`: the pairs are those that a training begins with."""

import numpy as np
import pytest
import torch
from mmengine.runner import Runner
from PIL import Image

from s4m_pipeline.errors import UserError
from s4m_pipeline.report.augmentation import first_step
from s4m_pipeline.report.sheets import GAP_PX, SIDE_PX, TITLE_PX
from s4m_pipeline.student.build import student_dataloader
from stages.report import arp


def test_arp_command__of_an_experiment__writes_a_row_for_each_pair(student_experiment, tmp_path):
    out = tmp_path / "pictures" / "arp.png"
    arp(student_experiment / "study.py", pairs=2, out=out, work_dir=student_experiment / "work")
    assert Image.open(out).size == (4 * (SIDE_PX + GAP_PX), TITLE_PX + 2 * (SIDE_PX + GAP_PX))


def test_arp_command__when_training_pairs_few__pairs_all(student_experiment, tmp_path):
    pictures = []
    for fraction in (0.1, 1.0):
        out = tmp_path / f"{fraction}.png"
        overrides = [f"student.arp.fraction={fraction}"]
        arp(student_experiment / "study.py", 2, out, overrides, student_experiment / "work")
        pictures.append(np.asarray(Image.open(out)))
    np.testing.assert_array_equal(*pictures)


def test_first_step__without_labelled_images__has_the_unlabelled_ones_of_a_training(inputs):
    student, parts, train, labels = inputs
    loader = Runner.build_dataloader(student_dataloader(student, parts, train, labels, (2, 2)))
    loader.sampler.generation = labels.generation.number
    batches = iter(loader)
    steps = [next(batches), next(batches)]
    expected = [image for step in steps for image in step["inputs"][2:]]
    masks = [sample.gt_instances.masks for step in steps for sample in step["data_samples"][2:]]
    found = first_step(student, parts, train, labels, (0, 4)).loaded
    for i, (image, instances) in enumerate(zip(expected, masks, strict=True)):
        height, width = image.shape[1:]
        assert found.sizes_hw[i] == (height, width)
        np.testing.assert_allclose(
            found.pixels_B3HW[i, :, :height, :width].numpy(), image.numpy() / 255, atol=1e-5
        )
        own = instances.to_tensor(torch.bool, "cpu")
        assert torch.equal(found.masks[i][:, :height, :width], own)
    assert sum(map(len, found.masks)) > 0


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
