"""Sizes of an experiment with a GPU, fitted to the images, the number of labels and the GPU's memory.

The estimate of memory is arithmetic, not a measurement on a GPU. Counted on the CPU (256, 384, 512 px), one
training image of c x c pixels with ten instances keeps 0.40 GB + 5.9 kB x c^2 for the backward pass of
Mask2Former with ResNet-50 in fp32; mixed precision is taken as 0.65 of that. Weights, gradients and the two
moments of AdamW are 16 bytes for each of 44 million weights, the EMA 4; a gigabyte is reserved for the driver
and a tenth of the memory stays free. An iteration of the student holds labeled and unlabeled images together.
"""

from s4m_pipeline.apps.init.fitting import (
    GB,
    Device,
    Facts,
    Fit,
    epoch_steps,
    min_soft_area,
    multiple,
    queries,
    unlabeled_batch,
)
from s4m_pipeline.apps.init.view import choose_view

_WEIGHT_BYTES = 44_000_000 * (16 + 4) + GB
_MIXED_PRECISION = 0.65
_SAM_BYTES = 8 * GB
"""Reserved for SAM 2 in a distilled teacher's training; not measured."""
_SWIN_MEMORY = 15.3 / 13.7
"""Of a training with Swin-T by that with ResNet-50, as mmdet's list of both networks states them."""
IMAGENET = "torchvision://resnet50"
COCO_R50 = "mmdet://mask2former_r50_8xb2-lsj-50e_coco"
COCO_SWIN_T = "mmdet://mask2former_swin-t-p4-w7-224_8xb2-lsj-50e_coco"
_FINE_TUNED = (
    "starts from {}, MMDetection's Mask2Former for COCO: a third of the iterations and half the learning "
    "rate of a training from ImageNet (--from-scratch), a choice that was not measured"
)
_CROPS_PX = (1024, 896, 768, 640, 512, 384, 256)
_LARGEST_BATCH = 16
_TILES_PX = (1024,)


def fit_gpu(facts: Facts, device: Device, memory_bytes: int, *, from_scratch: bool = False) -> Fit:
    """Images near their original size, and the largest crop of which two labeled and two unlabeled ones fit.

    Images are cut into tiles if small objects need a shorter side of more than 1,024 px.

    Burn-in and refresh take the paper's fractions of the training (15,000 and 5,000 of 90,000 iterations), if
    the number of unlabeled images allows it. A network that knows COCO learns a third as long.

    Args:
        from_scratch: start from an ImageNet backbone.
    """
    distill = memory_bytes >= 24 * GB
    start = IMAGENET if from_scratch else COCO_SWIN_T if memory_bytes >= 24 * GB else COCO_R50
    room = 0.9 * memory_bytes - _WEIGHT_BYTES - (_SAM_BYTES if distill else 0)
    room /= _SWIN_MEMORY if start == COCO_SWIN_T else 1
    view = choose_view(facts, 1.0, _TILES_PX, facts.most_objects)
    short_px = multiple(max(min(max(facts.short_px, 512), 1024), view.short_px), 32)
    crops = [crop for crop in _CROPS_PX if crop <= short_px]
    crop_px = next((crop for crop in crops if room >= 4 * bytes_per_image(crop)), crops[-1])
    batch_size = int(min(max(room / (2 * bytes_per_image(crop_px)), 1), _LARGEST_BATCH))
    epochs, fewest, most = (100, 5_000, 90_000) if from_scratch else (33, 2_000, 30_000)
    iterations = min(max(multiple(epochs * facts.num_labeled / batch_size, 1000), fewest), most)
    roomy = memory_bytes >= 16 * GB
    return Fit(
        small=False,
        start=start,
        sam="facebook/sam2.1-hiera-large" if roomy else "facebook/sam2.1-hiera-small",
        embeddings=False,
        encoder_batch=None if roomy else 4,
        decoder_chunk=None if roomy else 32,
        distill=distill,
        precision="bf16" if device.bfloat16 else "fp16",
        short_px=short_px,
        long_px=multiple(short_px * facts.aspect, 32),
        crop_px=crop_px,
        tile_px=view.tile_px,
        batch_size=batch_size,
        unlabeled_batch_size=unlabeled_batch(batch_size, facts.num_unlabeled),
        iterations=iterations,
        burn_in=iterations // 6,
        refresh_every=max(iterations // 18, epoch_steps(facts.num_unlabeled, batch_size)),
        ema=round(1 - 36 / iterations, 4),
        num_queries=queries(view.most_objects, 100),
        min_soft_area=min_soft_area(facts, short_px),
        notes=() if from_scratch else (_FINE_TUNED.format(start),),
    )


def bytes_per_image(crop_px: int) -> float:
    """Estimated memory of one training image of this side in mixed precision (see above)."""
    return _MIXED_PRECISION * (0.40 * GB + 5_900 * crop_px**2)
