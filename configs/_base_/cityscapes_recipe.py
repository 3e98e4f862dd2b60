"""Cityscapes as in the paper, for any network: data, geometry, schedules of teacher and student."""

_base_ = ["./refine.py"]

data = dict(
    root="data/cityscapes",
    labeled="splits/10/labeled.json",
    unlabeled="splits/10/unlabeled.json",
    train_images="leftImg8bit/train",
    val="annotations/val.json",
    val_images="leftImg8bit/val",
)
teacher = dict(
    iterations=90_000,
    batch_size=4,
    workers=4,
    precision="bf16",
    init_from="torchvision://resnet50",
    validate_every=5_000,
    checkpoint_every=1_000,
)
sd = dict(enabled=True)
student = dict(
    iterations=90_000,
    batch_size=16,
    unlabeled_batch_size=16,
    unlabeled_weight=2.0,
    workers=4,
    precision="bf16",
    init_from="torchvision://resnet50",
    burn_in=15_000,
    ema=0.9996,
    # Ours: after the burn-in, labels are made again at this interval; in the paper, in every iteration.
    refresh_every=5_000,
    gate="warn",  # ours: labels are replaced in any case, as in the paper; clearly worse ones are reported
    arp=dict(placement="same", scale_range=(1.0, 1.0), min_area_px=0),
    validate_every=5_000,
    checkpoint_every=1_000,
)
param_scheduler = [dict(type="PolyLR", power=0.9, eta_min=0.0)]

train_pipeline = [
    dict(type="LoadRGB"),
    dict(type="LoadInstances"),
    dict(
        type="RandomChoiceResize",
        scales=[(2 * (1024 * tenths // 10), 1024 * tenths // 10) for tenths in range(5, 21)],
        keep_ratio=True,
    ),
    dict(
        type="RandomCrop",
        crop_type="absolute",
        crop_size=(1024, 512),  # width, height
        recompute_bbox=True,
        allow_negative_crop=True,
    ),
    dict(type="RandomFlip", prob=0.5),
    dict(type="FilterAnnotations", min_gt_bbox_wh=(1e-5, 1e-5), by_mask=True, keep_empty=False),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadRGB"),
    dict(type="Resize", scale=(2048, 1024), keep_ratio=True),
    dict(type="PackDetInputs"),
]
