"""COCO as in the paper: data, large-scale jitter, schedule; configs/coco sets the share of labels."""

_base_ = ["./mask2former_r50.py", "./adamw.py", "./refine.py"]

data = dict(
    root="data/coco",
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
param_scheduler = [dict(type="MultiStepLR", milestones=[327_778, 355_092], gamma=0.1)]

model = dict(
    data_preprocessor=dict(
        batch_augments=[
            dict(
                type="BatchFixedSizePad", size=(1024, 1024), img_pad_value=0, pad_mask=True, mask_pad_value=0
            )
        ]
    )
)

train_pipeline = [
    dict(type="LoadRGB"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
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
