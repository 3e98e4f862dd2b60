"""The chain of cityscapes_10.py in a handful of steps: the miniature, the demo's network, the nano SAM 2.

Everything in pixels is an eighth of the paper's, as the miniature's photos are.

Data:             s4m data miniature cityscapes ROOT, and docs/cityscapes.md, split of 10 %
Command:          s4m reproduce cityscapes ROOT --profile smoke (its first stage: s4m pretrain-teacher)
Time and memory:  two minutes on two cores; memory not measured
Expected AP:      none to speak of
"""

_base_ = ["../_base_/cityscapes_recipe.py", "../_base_/small.py"]

_weights = "{{ fileDirname }}/../../s4m_pipeline/models/demo_init/demo_init.safetensors"
_few = dict(workers=0, init_from=_weights, log_every=2)

data = dict(labeled="splits/10/labeled.json", unlabeled="splits/10/unlabeled.json")
teacher = dict(iterations=12, batch_size=4, validate_every=12, checkpoint_every=6, **_few)
sam = dict(model="nano")
sd = dict(points=16)
refine = dict(min_score=0.1, workers=0)
optim_wrapper = dict(optimizer=dict(lr=1e-2))  # else the first steps find no object anywhere
student = dict(
    iterations=6,
    batch_size=2,
    unlabeled_batch_size=2,
    burn_in=2,
    refresh_every=2,
    validate_every=6,
    checkpoint_every=2,
    **_few,
)

train_pipeline = _base_.train_pipeline
train_pipeline[2].update(scales=[(side // 8 * 2, side // 8) for _, side in train_pipeline[2]["scales"]])
train_pipeline[3].update(crop_size=(128, 64))
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(scale=(256, 128))
