"""The embedded data set, on two CPU cores.

Commands:         s4m data demo data/demo
                  s4m data split data/demo/train.json --percent 12 \\
                      --val data/demo/val.json --out data/demo/split
                  s4m pretrain-teacher configs/demo/demo.py
                  s4m refine configs/demo/demo.py
Time and memory:  2 minutes for the teacher on one core, 0.25 s a step; memory not measured
Expected AP:      32.3 on its validation scenes (seeds 1 and 2: 35.8, 40.8)
"""

_base_ = ["../_base_/mask2former_r50.py", "../_base_/adamw.py", "../_base_/refine.py"]

_width = 64
_attention = dict(embed_dims=_width, num_heads=4)
_ffn = dict(embed_dims=_width, feedforward_channels=4 * _width)

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
    iterations=400,
    batch_size=8,
    workers=0,
    ema=0.99,
    init_from="{{ fileDirname }}/../../s4m_pipeline/models/demo_init/demo_init.safetensors",
    validate_every=200,
    checkpoint_every=50,
    log_every=20,
)
sam = dict(model="nano")
sd = dict(enabled=False, points=16)
refine = dict(nms_iou=0.5, ground_truth="train.json")

model = dict(
    backbone=dict(
        depth=18, base_channels=16, stem_channels=16, norm_cfg=dict(requires_grad=True), norm_eval=False
    ),
    panoptic_head=dict(
        in_channels=[16, 32, 64, 128],
        feat_channels=_width,
        out_channels=_width,
        num_queries=15,
        pixel_decoder=dict(
            norm_cfg=dict(num_groups=16),
            encoder=dict(num_layers=1, layer_cfg=dict(self_attn_cfg=_attention, ffn_cfg=_ffn)),
            positional_encoding=dict(num_feats=_width // 2),
        ),
        positional_encoding=dict(num_feats=_width // 2),
        transformer_decoder=dict(
            num_layers=3,
            layer_cfg=dict(self_attn_cfg=_attention, cross_attn_cfg=_attention, ffn_cfg=_ffn),
        ),
    ),
    train_cfg=dict(num_points=1024),
    test_cfg=dict(max_per_image=30),
)
optim_wrapper = dict(
    optimizer=dict(lr=1e-3),
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=1.0))),
    clip_grad=dict(max_norm=1.0),
)

train_pipeline = [
    dict(type="LoadRGB"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
test_pipeline = [dict(type="LoadRGB"), dict(type="PackDetInputs")]
