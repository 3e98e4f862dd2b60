"""The proof: our one stream over ragged images and prompts equals SAM2ImagePredictor, image by image.

Random weights give logits of a standard deviation of about 0.1, hence the tight absolute tolerances.
"""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from sam2.sam2_image_predictor import SAM2ImagePredictor

from s4m_pipeline.sam import BatchedSam, ImageEmbeddings, Prompts, full_size_masks

SIZES_HW = [(200, 320), (333, 250), (64, 64), (512, 400)]
NUM_PROMPTS = [5, 1, 0, 9]
NUM_POINTS = 3


@dataclass
class Scene:
    sam: BatchedSam
    images: list[torch.Tensor]
    embeddings: ImageEmbeddings
    image_index: torch.Tensor
    points_xy_px: torch.Tensor
    point_labels: torch.Tensor
    boxes_xyxy_px: torch.Tensor

    def prompts(self, kind: str) -> Prompts:
        if kind == "boxes":
            return Prompts(boxes_xyxy_px=self.boxes_xyxy_px)
        boxes = self.boxes_xyxy_px if kind == "points and boxes" else None
        return Prompts(points_xy_px=self.points_xy_px, point_labels=self.point_labels, boxes_xyxy_px=boxes)


@pytest.fixture(scope="module")
def scene(make_sam) -> Scene:
    sam = make_sam(1024)
    generator = torch.Generator().manual_seed(3)
    images = [torch.randint(0, 256, (3, h, w), generator=generator, dtype=torch.uint8) for h, w in SIZES_HW]
    image_index = torch.arange(len(images)).repeat_interleave(torch.tensor(NUM_PROMPTS))
    size_wh = torch.tensor(SIZES_HW).flip(1)[image_index]
    points = torch.rand((len(image_index), NUM_POINTS, 2), generator=generator) * size_wh[:, None]
    corners = (
        (torch.rand((len(image_index), 2, 2), generator=generator) * size_wh[:, None]).sort(dim=1).values
    )
    return Scene(
        sam=sam,
        images=images,
        embeddings=sam.encode(images),
        image_index=image_index,
        points_xy_px=points,
        point_labels=torch.randint(0, 2, points.shape[:2], generator=generator),
        boxes_xyxy_px=corners.reshape(-1, 4),
    )


@pytest.fixture(scope="module")
def predictors(scene: Scene) -> dict[int, SAM2ImagePredictor]:
    """One stock predictor per image that has prompts, its image set."""
    stock = {}
    for image, pixels in enumerate(scene.images):
        if NUM_PROMPTS[image]:
            stock[image] = SAM2ImagePredictor(scene.sam.network)
            stock[image].set_image(pixels.permute(1, 2, 0).numpy())
    return stock


def predict_stock(predictor: SAM2ImagePredictor, prompts: Prompts, rows: torch.Tensor, size: tuple[int, int]):
    """Logits (n, 3, 256, 256), IoU (n, 3) and full-size masks (n, 3, H, W), from the per-image predictor."""

    def of_image(tensor: torch.Tensor | None) -> np.ndarray | None:
        return None if tensor is None else tensor[rows].numpy()

    mask, coords, labels, box = predictor._prep_prompts(
        of_image(prompts.points_xy_px),
        of_image(prompts.point_labels),
        of_image(prompts.boxes_xyxy_px),
        None,
        True,
    )
    full, iou, logits = predictor._predict(coords, labels, box, mask, multimask_output=True)
    assert full.shape[-2:] == size
    return logits, iou, full


def test_encode__images_of_different_sizes_equal_the_predictor(scene: Scene, predictors) -> None:
    for image, predictor in predictors.items():
        stride_4, stride_8 = predictor._features["high_res_feats"]
        torch.testing.assert_close(
            scene.embeddings.tokens_BChw[image], predictor.get_image_embedding()[0], atol=2e-5, rtol=0
        )
        torch.testing.assert_close(scene.embeddings.stride_8[image], stride_8[0], atol=2e-5, rtol=0)
        torch.testing.assert_close(scene.embeddings.stride_4[image], stride_4[0], atol=2e-5, rtol=0)


@pytest.mark.parametrize("kind", ["points", "boxes", "points and boxes"])
def test_decode__ragged_prompts_equal_the_predictor(scene: Scene, predictors, kind: str) -> None:
    prompts = scene.prompts(kind)
    every = scene.sam.decode(scene.embeddings, scene.image_index, prompts, "all")
    best = scene.sam.decode(scene.embeddings, scene.image_index, prompts)
    pieces = list(full_size_masks(best.logits[:, 0], scene.image_index, scene.embeddings.image_hw_px))
    assert [len(rows) for rows, _ in pieces] == [5, 1, 9]
    for image, (rows, masks) in zip(predictors, pieces, strict=True):
        logits, iou, full = predict_stock(predictors[image], prompts, rows, SIZES_HW[image])
        torch.testing.assert_close(every.logits[rows], logits, atol=1e-5, rtol=0)
        torch.testing.assert_close(every.iou[rows], iou, atol=1e-5, rtol=0)
        chosen = full[torch.arange(len(rows)), iou.argmax(1)]
        assert 0.01 < chosen.float().mean() < 0.99, "the masks compared must have both classes"
        assert (masks != chosen).float().mean() < 1e-5


def test_decode__mask_prompts_equal_the_predictor(scene: Scene, predictors) -> None:
    row = NUM_PROMPTS[0]  # the only prompt of image 1
    points, labels = scene.points_xy_px[row, None], scene.point_labels[row, None]
    mask_logits = torch.randn((1, 256, 256), generator=torch.Generator().manual_seed(4)) * 5
    prompts = Prompts(points_xy_px=points, point_labels=labels, mask_logits=mask_logits)
    ours = scene.sam.decode(scene.embeddings, scene.image_index[row, None], prompts, "single")
    stock = predictors[1].predict(
        points[0].numpy(), labels[0].numpy(), mask_input=mask_logits.numpy(), multimask_output=False
    )
    torch.testing.assert_close(ours.logits[0], torch.from_numpy(stock[2]), atol=1e-5, rtol=0)
