"""COCO with 1 % of train2017 labelled.

Data:             docs/cityscapes.md, split of 1 %
Command:          s4m pretrain-teacher configs/coco/coco_01.py
Time and memory:  not measured here (368,750 steps of 16 images of 1024 x 1024)
Expected AP:      not measured here; the paper's teacher: 13.5, with structural distillation 15.1
"""

_base_ = ["../_base_/coco.py"]

data = dict(labeled="splits/01/labeled.json", unlabeled="splits/01/unlabeled.json")
