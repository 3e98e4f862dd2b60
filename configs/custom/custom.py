"""A template for data of your own: copy it, and change what is marked.

Commands:         s4m data check data/mine/train.json --images data/mine/images
                  s4m pretrain-teacher configs/custom/custom.py
Time and memory:  not measured; depends on the data
Expected AP:      not measured; depends on the data

Class names, and everything that depends on their number, are taken from the labelled JSON.
"""

_base_ = ["../_base_/mask2former_r50.py", "../_base_/adamw.py", "../_base_/refine.py"]

data = dict(
    root="data/mine",  # change: paths below start here
    labeled="labeled.json",  # COCO JSON of the labelled images
    unlabeled="unlabeled.json",  # COCO JSON of the unlabelled images, or a folder
    train_images="images",
    val="val.json",
    val_images="images",
)
teacher = dict(
    iterations=20_000,  # change: about 100 passes over the labelled images are a start
    batch_size=4,  # change: as many as fit into the device's memory
    workers=4,
    precision="bf16",
    init_from="torchvision://resnet50",
    validate_every=2_000,
    checkpoint_every=500,
)
param_scheduler = [dict(type="PolyLR", power=0.9, eta_min=0.0)]

train_pipeline = [
    dict(type="LoadRGB"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="RandomFlip", prob=0.5),
    dict(
        type="RandomResize", scale=(1024, 1024), ratio_range=(0.5, 1.5), resize_type="Resize", keep_ratio=True
    ),
    dict(
        type="RandomCrop",
        crop_type="absolute",
        crop_size=(768, 768),
        recompute_bbox=True,
        allow_negative_crop=True,
    ),
    dict(type="FilterAnnotations", min_gt_bbox_wh=(1e-5, 1e-5), by_mask=True, keep_empty=False),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadRGB"),
    dict(type="Resize", scale=(1024, 1024), keep_ratio=True),
    dict(type="PackDetInputs"),
]
