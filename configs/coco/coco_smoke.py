"""The chain of coco.py in a few iterations: the miniature, the demo's network, the nano SAM 2.

Everything in pixels is an eighth of the paper's.

Data:             s4m data miniature coco ROOT, and docs/cityscapes.md, split of 10 %
Command:          s4m reproduce coco ROOT --profile smoke (its first stage: s4m pretrain-teacher)
Time and memory:  not measured on an idle machine
Expected AP:      none to speak of
"""

_base_ = ["../_base_/coco_recipe.py", "../_base_/small.py"]

_few = dict(workers=0, init_from=None, log_every=2)
_queries = 5  # as many as objects: with more, a few iterations teach that nothing is anywhere
_batch_augments = _base_._batch_augments
_batch_augments[0].update(size=(128, 128))

model = dict(data_preprocessor=dict(batch_augments=_batch_augments), panoptic_head=dict(num_queries=_queries))
teacher = dict(iterations=12, batch_size=4, validate_every=12, checkpoint_every=6, **_few)
sam = dict(model="nano")
sd = dict(points=16)
refine = dict(min_score=0.02, workers=0)
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
train_pipeline[3].update(scale=(128, 128))
train_pipeline[4].update(crop_size=(128, 128))
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(scale=(166, 100))
