"""The embedded data set, on two CPU cores: 24 labeled scenes, 376 unlabeled ones.

Commands:         s4m demo, or
                  s4m data demo data/demo
                  s4m data split data/demo/train.json --percent 6 \\
                      --val data/demo/val.json --out data/demo/split
                  s4m run demo
Time and memory:  6 to 13 minutes with two threads; memory not measured
Expected AP:      on its test scenes teacher 51.5, student 69.7
"""

_base_ = ["../_base_/small.py", "../_base_/refine.py"]

data = dict(
    root="data/demo",
    labeled="split/labeled.json",
    unlabeled="split/unlabeled.json",
    train_images="train",
    val="val.json",
    val_images="val",
    test="test.json",
    test_images="test",
)
teacher = dict(
    iterations=600,
    batch_size=8,
    workers=1,
    ema=0.99,
    init_from="small",
    validate_every=300,
    checkpoint_every=50,
    log_every=20,
)
student = dict(
    iterations=600,
    batch_size=8,
    unlabeled_batch_size=8,
    workers=1,
    burn_in=150,
    refresh_every=225,
    ema=0.99,
    init_from="teacher",  # the paper's starts from ImageNet weights, for which this schedule is too short
    validate_every=300,
    checkpoint_every=50,
    log_every=20,
    arp=dict(min_area_px=30),
)
model = dict(train_cfg=dict(num_points=1024))
sam = dict(model="nano", encoder_batch=4, decoder_chunk=32)
sd = dict(enabled=True, points=8)
cache = dict(embeddings=True)
refine = dict(nms_iou=0.5, ground_truth="train.json")

train_pipeline = [
    dict(type="LoadRGB"),
    dict(type="LoadInstances"),
    dict(type="RandomFlip", prob=0.5),
    dict(
        type="RandomResize", scale=(128, 128), ratio_range=(0.75, 1.5), resize_type="Resize", keep_ratio=True
    ),
    dict(
        type="RandomCrop",
        crop_type="absolute",
        crop_size=(128, 128),
        recompute_bbox=True,
        allow_negative_crop=True,
    ),
    dict(type="FilterAnnotations", min_gt_bbox_wh=(1e-5, 1e-5), by_mask=True, keep_empty=False),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackDetInputs"),
]
test_pipeline = [dict(type="LoadRGB"), dict(type="PackDetInputs")]
