"""Initial weights of the small network, second version: class-agnostic training on randomized scenes.

With as many queries as `s4m init` asks for on a CPU at most, and the decoder; see
s4m_pipeline/models/demo_init/RECIPE.md.

Commands:         python -m s4m_pipeline.models.demo_init.make scenes data/init
                  s4m pretrain-teacher configs/demo/init.py
                  python -m s4m_pipeline.models.demo_init.make strip \\
                      work_dirs/init/teacher/weights.safetensors
Time and memory:  about an hour on one core, and 0.5 GB of scenes; memory not measured
Expected AP:      15.8, AP50 33.7 on its validation scenes
"""

_base_ = ["demo.py"]

data = dict(root="data/init", labeled="train.json", test=None, test_images=None)
sd = dict(enabled=False)  # nothing of SAM 2 goes into these weights
model = dict(panoptic_head=dict(num_queries=100), test_cfg=dict(max_per_image=100))
teacher = dict(iterations=12_000, init_from=None, validate_every=3000, checkpoint_every=250, log_every=50)
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
    dict(type="FilterAnnotations", min_gt_bbox_wh=(3, 3), by_mask=True, keep_empty=False),
    dict(type="PackDetInputs"),
]
