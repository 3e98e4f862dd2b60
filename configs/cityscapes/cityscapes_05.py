"""Cityscapes with 5 % of the training images labelled.

Data:             docs/cityscapes.md, split of 5 %
Commands:         s4m reproduce cityscapes ROOT --percent 5, or stage by stage:
                  s4m pretrain-teacher configs/cityscapes/cityscapes_05.py
                  s4m refine configs/cityscapes/cityscapes_05.py
                  s4m train-student configs/cityscapes/cityscapes_05.py
Time and memory:  not measured, estimated in docs/reproduction.md
                  (teacher: 90,000 steps of 4 crops of 512 x 1024; student: 90,000 of 16 + 16)
Expected AP:      not measured here; the paper's student: 30.1; its teacher: 17.2, without structural
                  distillation 14.9
"""

_base_ = ["../_base_/cityscapes.py"]

data = dict(labeled="splits/05/labeled.json", unlabeled="splits/05/unlabeled.json")
