"""Cityscapes with 20 % of the training images labelled.

Data:             docs/cityscapes.md, split of 20 %
Commands:         s4m reproduce cityscapes ROOT --percent 20, or stage by stage:
                  s4m pretrain-teacher configs/cityscapes/cityscapes_20.py
                  s4m refine configs/cityscapes/cityscapes_20.py
                  s4m train-student configs/cityscapes/cityscapes_20.py
Time and memory:  not measured, estimated in docs/reproduction.md
                  (teacher: 90,000 steps of 4 crops of 512 x 1024; student: 90,000 of 16 + 16)
Expected AP:      not measured here; the paper's student: 37.3; its teacher: 29.6, without structural
                  distillation 27.6
"""

_base_ = ["../_base_/cityscapes.py"]

data = dict(labeled="splits/20/labeled.json", unlabeled="splits/20/unlabeled.json")
