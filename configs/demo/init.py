"""Initial weights of the demo network: class-agnostic training on scenes of other object families.

Commands:         python -m s4m_pipeline.models.demo_init.make scenes data/init
                  s4m pretrain-teacher configs/demo/init.py
                  python -m s4m_pipeline.models.demo_init.make strip \\
                      work_dirs/init/teacher/weights.safetensors
Time and memory:  40 minutes on one busy core; memory not measured
Expected AP:      57.0 class-agnostic on its validation scenes, AP50 90.2
"""

_base_ = ["demo.py"]

data = dict(root="data/init", test=None, test_images=None)
sd = dict(enabled=False)  # nothing of SAM 2 goes into these weights
teacher = dict(iterations=3000, init_from=None, validate_every=1000, checkpoint_every=250, log_every=50)
train_pipeline = [
    dict(type="LoadRGB"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
