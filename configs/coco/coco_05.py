"""COCO with 5 % of train2017 labelled.

Data:             docs/cityscapes.md, split of 5 %
Command:          s4m pretrain-teacher configs/coco/coco_05.py
Time and memory:  not measured here (368,750 steps of 16 images of 1024 x 1024)
Expected AP:      not measured here; the paper's teacher: 25.8, with structural distillation 26.1
"""

_base_ = ["../_base_/coco.py"]

data = dict(labeled="splits/05/labeled.json", unlabeled="splits/05/unlabeled.json")
