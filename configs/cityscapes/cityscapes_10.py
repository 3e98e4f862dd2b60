"""Cityscapes with 10 % of the training images labelled.

Data:             docs/cityscapes.md, split of 10 %
Commands:         s4m reproduce cityscapes ROOT --percent 10, or stage by stage:
                  s4m pretrain-teacher configs/cityscapes/cityscapes_10.py
                  s4m refine configs/cityscapes/cityscapes_10.py
                  s4m train-student configs/cityscapes/cityscapes_10.py
Time and memory:  not measured, estimated in docs/reproduction.md
                  (teacher: 90,000 steps of 4 crops of 512 x 1024; student: 90,000 of 16 + 16)
Expected AP:      not measured here; the paper's student: 33.3; its teacher: 22.5, without structural
                  distillation 19.0
"""

_base_ = ["../_base_/cityscapes.py"]

data = dict(labeled="splits/10/labeled.json", unlabeled="splits/10/unlabeled.json")
