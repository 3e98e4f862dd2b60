"""The chain of cityscapes.py in a few iterations: the miniature, the demo's network, the nano SAM 2.

Everything in pixels is an eighth of the paper's, as the miniature's photos are.

Data:             s4m data miniature cityscapes ROOT, and docs/cityscapes.md, split of 10 %
Command:          s4m reproduce cityscapes ROOT --profile smoke (its first stage: s4m pretrain-teacher)
Time and memory:  65 s of processor time for the stages, in one thread, with 1,024 sampled points a mask
                  instead of 256; memory not measured
Expected AP:      none to speak of
"""

_base_ = ["../_base_/cityscapes_recipe.py", "../_base_/small.py"]

_few = dict(workers=0, init_from=None, log_every=2)
_queries = 5  # as many as objects: with more, a few iterations teach that nothing is anywhere

model = dict(panoptic_head=dict(num_queries=_queries))
teacher = dict(iterations=12, batch_size=4, validate_every=12, checkpoint_every=6, **_few)
sam = dict(model="nano")
sd = dict(points=16)
refine = dict(min_score=0.1, workers=0)
optim_wrapper = dict(optimizer=dict(lr=5e-3))
student = dict(
    iterations=6,
    batch_size=2,
    unlabeled_batch_size=2,
    burn_in=3,
    refresh_every=3,
    validate_every=6,
    checkpoint_every=3,
    **_few,
)

train_pipeline = _base_.train_pipeline
train_pipeline[2].update(scales=[(side // 8 * 2, side // 8) for _, side in train_pipeline[2]["scales"]])
train_pipeline[3].update(crop_size=(128, 64))
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(scale=(256, 128))
