"""`s4m report augmentation`: what it shows is what training does, from the file to the network."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from s4m_pipeline.apps.report.augmentation import first_batch
from s4m_pipeline.config.student import ArpOptions, PhotometricOptions
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.student.arp import draw_placements
from s4m_pipeline.student.photometric import strong_augment
from s4m_pipeline.train.hooks import SeedEachStep
from s4m_pipeline.visual.sheets import GAP_PX, HEADING_PX, SIDE_PX, TITLE_PX, fitted
from s4m_stages.report import augmentation

TILE_PX = SIDE_PX + GAP_PX


class Seen(Exception):
    """Raised in place of the first step's loss."""


def test_first_batch__last_column__is_what_a_training_gives_its_network(inputs, train_student, monkeypatch):
    from s4m_pipeline.models.student import StudentMask2Former

    given = []

    def loss(self, batch_inputs, batch_data_samples):
        given.append((batch_inputs.clone(), batch_data_samples, self.data_preprocessor))
        raise Seen

    monkeypatch.setattr(StudentMask2Former, "loss", loss)
    with pytest.raises(Seen):
        train_student("work")
    ((pixels, samples, preprocessor),) = given
    student = inputs[0]
    step = first_batch(*inputs, (student.batch_size, student.unlabeled_batch_size))
    shown = (step.inputs.pixels_B3HW * 255 - preprocessor.mean) / preprocessor.std
    torch.testing.assert_close(shown, pixels, rtol=0, atol=1e-5)
    assert step.num_labeled == student.batch_size
    for masks, labels, sample in zip(step.inputs.masks, step.inputs.labels, samples, strict=True):
        assert torch.equal(masks, sample.gt_instances.masks)
        assert torch.equal(labels, sample.gt_instances.labels)


def test_first_batch__without_strong_colors__ends_with_what_arp_made(inputs):
    student, config, train, labels = inputs
    quiet = PhotometricOptions(jitter_p=0.0, grey_p=0.0, blur_p=0.0)
    step = first_batch(student.model_copy(update={"photometric": quiet}), config, train, labels, (1, 4))
    torch.testing.assert_close(step.inputs.pixels_B3HW[1:], step.pasted.pixels_B3HW, rtol=0, atol=1e-5)
    for found, pasted in zip(step.inputs.masks[1:], step.pasted.masks, strict=True):
        assert torch.equal(found, pasted)
    assert not torch.equal(step.pasted.pixels_B3HW, step.loaded.pixels_B3HW)
    strong = first_batch(student, config, train, labels, (1, 4))
    torch.testing.assert_close(strong.pasted.pixels_B3HW, step.pasted.pixels_B3HW)
    assert (strong.inputs.pixels_B3HW[1:] - step.pasted.pixels_B3HW).abs().amax(dim=(1, 2, 3)).max() > 0.05


def test_first_batch__last_two_columns__differ_by_the_strong_colors_alone(inputs):
    """The colors are those that `strong_augment` draws after ARP's numbers, from the step's own seed."""
    student, config, train, labels = inputs
    step = first_batch(student, config, train, labels, (1, 2))
    SeedEachStep(student.seed).before_train_iter(SimpleNamespace(iter=0, rank=0), 0)
    draw_placements(step.loaded, student.arp)
    expected = strong_augment(step.pasted.pixels_B3HW, step.pasted.sizes_hw, student.photometric)
    for image, (height, width) in enumerate(step.pasted.sizes_hw):
        found = step.inputs.pixels_B3HW[1 + image, :, :height, :width]
        torch.testing.assert_close(found, expected[image, :, :height, :width], rtol=0, atol=1e-5)


def test_first_batch__pairs__exchanged_their_instances_and_others_did_not(inputs):
    student, config, train, labels = inputs
    half = student.model_copy(update={"arp": ArpOptions(fraction=0.5)})
    step = first_batch(half, config, train, labels, (0, 4))
    assert len(step.pairs) <= 1
    assert sorted(step.unlabeled_order()) == [0, 1, 2, 3]
    alone = set(range(4)) - {image for pair in step.pairs for image in pair}
    for image in alone:
        assert torch.equal(step.pasted.pixels_B3HW[image], step.loaded.pixels_B3HW[image])
    whole = first_batch(student, config, train, labels, (0, 4))
    unions = [masks.any(dim=0) for masks in whole.loaded.masks]
    assert any(union.any() for union in unions)
    for image, partner in [*whole.pairs, *((b, a) for a, b in whole.pairs)]:
        moved = unions[partner]
        expected = torch.where(moved, whole.loaded.pixels_B3HW[partner], whole.loaded.pixels_B3HW[image])
        torch.testing.assert_close(whole.pasted.pixels_B3HW[image], expected)


def test_first_batch__files__are_the_images_as_they_are_on_disk(inputs):
    """The annotations are drawn over them, so that most pixels are compared, not all."""
    student, config, train, labels = inputs
    step = first_batch(student, config, train, labels, (2, 2))
    known = [image.path for image in (*train.images, *labels.unlabeled.images)]
    photos = [fitted(np.asarray(Image.open(path).convert("RGB"))) for path in known]
    for tile in step.files:
        same = [(np.asarray(tile) == photo).all(-1).mean() for photo in photos]
        assert sorted(same)[-1] > 0.7


def tiles(path: Path) -> tuple[int, int]:
    """Columns, and rows of both branches, of a picture with two sections of square tiles."""
    width, height = Image.open(path).size
    assert width % TILE_PX == 0
    return width // TILE_PX, (height - 2 * HEADING_PX - 2 * TITLE_PX) // TILE_PX


def test_augmentation_command__shows_both_branches(student_experiment, tmp_path, capsys):
    out = tmp_path / "pictures/augmentation.png"
    augmentation(student_experiment / "study.py", 3, out, [], student_experiment / "work")
    assert tiles(out) == (4, 2 + 3)  # two labeled images a row, an unlabeled one
    assert str(out) in capsys.readouterr().out


def test_augmentation_command__without_labels__shows_the_labeled_branch_and_says_so(
    student_experiment, tmp_path, capsys
):
    augmentation(student_experiment / "study.py", 3, None, [], tmp_path)
    width, height = Image.open(tmp_path / "augmentation.png").size
    assert (width, height) == (4 * TILE_PX, 2 * HEADING_PX + TITLE_PX + 2 * TILE_PX)
    assert "Only the labeled branch is drawn: There are no pseudo-labels" in capsys.readouterr().err


def test_augmentation_command__control__needs_no_labels(student_experiment, tmp_path):
    overrides = ["student.source=labeled", "student.refresh_every=null"]
    augmentation(student_experiment / "study.py", 2, None, overrides, tmp_path)
    assert tiles(tmp_path / "augmentation.png") == (4, 1 + 2)


@pytest.mark.parametrize(
    ("overrides", "out", "message"),
    [(["student=null"], "a.png", "no group `student`"), ([], "a.jpg", "ends in .png")],
    ids=["no student", "no PNG"],
)
def test_augmentation_command__that_cannot_be_drawn__is_refused(
    student_experiment, tmp_path, overrides, out, message
):
    with pytest.raises(UserError, match=message):
        augmentation(
            student_experiment / "study.py", 2, tmp_path / out, overrides, student_experiment / "work"
        )
    assert not list(tmp_path.iterdir())
