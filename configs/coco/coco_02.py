"""COCO with 2 % of train2017 labelled.

Data:             docs/cityscapes.md, split of 2 %
Command:          s4m pretrain-teacher configs/coco/coco_02.py
Time and memory:  not measured here (368,750 steps of 16 images of 1024 x 1024)
Expected AP:      not measured here; the paper's teacher: 19.5, with structural distillation 20.3
"""

_base_ = ["../_base_/coco.py"]

data = dict(labeled="splits/02/labeled.json", unlabeled="splits/02/unlabeled.json")
