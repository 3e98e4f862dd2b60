"""Cityscapes with 5 % of the training images labelled.

Data:             docs/cityscapes.md, split of 5 %
Command:          s4m pretrain-teacher configs/cityscapes/cityscapes_05.py
Time and memory:  not measured here (90,000 steps of 4 crops of 512 x 1024)
Expected AP:      not measured here; the paper's teacher: 14.9, with structural distillation 17.2
"""

_base_ = ["../_base_/cityscapes.py"]

data = dict(labeled="splits/05/labeled.json", unlabeled="splits/05/unlabeled.json")
