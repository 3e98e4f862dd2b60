"""Cityscapes with 30 % of the training images labelled.

Data:             docs/cityscapes.md, split of 30 %
Command:          s4m pretrain-teacher configs/cityscapes/cityscapes_30.py
Time and memory:  not measured here (90,000 steps of 4 crops of 512 x 1024)
Expected AP:      not measured here; the paper's teacher: 29.9, with structural distillation 32.0
"""

_base_ = ["../_base_/cityscapes.py"]

data = dict(labeled="splits/30/labeled.json", unlabeled="splits/30/unlabeled.json")
