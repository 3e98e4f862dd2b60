"""COCO with 10 % of train2017 labelled.

Data:             docs/cityscapes.md, split of 10 %
Command:          s4m pretrain-teacher configs/coco/coco_10.py
Time and memory:  not measured here (368,750 steps of 16 images of 1024 x 1024)
Expected AP:      not measured here; the paper's teacher: 30.1, with structural distillation 30.3
"""

_base_ = ["../_base_/coco.py"]

data = dict(labeled="splits/10/labeled.json", unlabeled="splits/10/unlabeled.json")
