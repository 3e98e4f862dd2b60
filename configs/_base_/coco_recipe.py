"""COCO as in the paper, for any network: data, large-scale jitter, schedules of teacher and student."""

_base_ = ["./refine.py"]

data = dict(
    root="data/coco",
    labeled="splits/10/labeled.json",
    unlabeled="splits/10/unlabeled.json",
    train_images="train2017",
    val="annotations/instances_val2017.json",
    val_images="val2017",
)
teacher = dict(
    iterations=368_750,
    batch_size=16,
    workers=8,
    precision="bf16",
    init_from="torchvision://resnet50",
    validate_every=10_000,
    checkpoint_every=1_000,
)
sd = dict(enabled=True)
student = dict(
    iterations=368_750,
    batch_size=12,
    unlabeled_batch_size=12,
    unlabeled_weight=2.0,
    workers=8,
    precision="bf16",
    init_from="torchvision://resnet50",
    burn_in=25_000,
    ema=0.9996,
    # Ours: after the burn-in, labels are made again at this interval; in the paper, in every iteration.
    # All unlabeled images are seen once in about 9,700 iterations: more often, and labels would go unused.
    refresh_every=25_000,
    gate="warn",  # ours: labels are replaced in any case, as in the paper; clearly worse ones are reported
    arp=dict(placement="random", scale_range=(0.8, 1.2), min_area_px=0),
    validate_every=10_000,
    checkpoint_every=1_000,
)
param_scheduler = [dict(type="MultiStepLR", milestones=[327_778, 355_092], gamma=0.1)]

_batch_augments = [
    dict(type="BatchFixedSizePad", size=(1024, 1024), img_pad_value=0, pad_mask=True, mask_pad_value=0)
]

train_pipeline = [
    dict(type="LoadRGB"),
    dict(type="LoadInstances"),
    dict(type="RandomFlip", prob=0.5),
    dict(
        type="RandomResize", scale=(1024, 1024), ratio_range=(0.1, 2.0), resize_type="Resize", keep_ratio=True
    ),
    dict(
        type="RandomCrop",
        crop_type="absolute",
        crop_size=(1024, 1024),
        recompute_bbox=True,
        allow_negative_crop=True,
    ),
    dict(type="FilterAnnotations", min_gt_bbox_wh=(1e-5, 1e-5), by_mask=True, keep_empty=False),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadRGB"),
    dict(type="Resize", scale=(1333, 800), keep_ratio=True),
    dict(type="PackDetInputs"),
]
