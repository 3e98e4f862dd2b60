"""Cityscapes with 10 % of the training images labelled.

Data:             docs/cityscapes.md, split of 10 %
Command:          s4m pretrain-teacher configs/cityscapes/cityscapes_10.py
Time and memory:  not measured here (90,000 steps of 4 crops of 512 x 1024)
Expected AP:      not measured here; the paper's teacher: 19.0, with structural distillation 22.5
"""

_base_ = ["../_base_/cityscapes.py"]

data = dict(labeled="splits/10/labeled.json", unlabeled="splits/10/unlabeled.json")
