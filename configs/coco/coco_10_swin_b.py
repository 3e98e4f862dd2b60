"""COCO with 10 % of train2017 labelled, with Swin-B instead of the paper's ResNet-50.

Data:             docs/cityscapes.md, split of 10 %
Command:          s4m pretrain-teacher configs/coco/coco_10_swin_b.py
Time and memory:  not measured (368,750 steps of 16 images of 1024 x 1024)
Expected AP:      not measured; the paper has no such row
"""

_base_ = ["../_base_/coco_recipe.py", "../_base_/swin_b.py"]

data = dict(labeled="splits/10/labeled.json", unlabeled="splits/10/unlabeled.json")
model = dict(data_preprocessor=dict(batch_augments=_base_._batch_augments))
# The backbone's weights are named in model.backbone.init_cfg.
teacher = dict(init_from=None)
student = dict(init_from=None)
