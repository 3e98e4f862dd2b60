"""Cityscapes with 20 % of the training images labelled.

Data:             docs/cityscapes.md, split of 20 %
Command:          s4m pretrain-teacher configs/cityscapes/cityscapes_20.py
Time and memory:  not measured here (90,000 steps of 4 crops of 512 x 1024)
Expected AP:      not measured here; the paper's teacher: 27.6, with structural distillation 29.6
"""

_base_ = ["../_base_/cityscapes.py"]

data = dict(labeled="splits/20/labeled.json", unlabeled="splits/20/unlabeled.json")
