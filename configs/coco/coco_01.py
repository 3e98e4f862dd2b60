"""COCO with 1 % of train2017 labelled.

Data:             docs/cityscapes.md, split of 1 %
Commands:         s4m reproduce coco ROOT --percent 1, or stage by stage:
                  s4m pretrain-teacher configs/coco/coco_01.py
                  s4m refine configs/coco/coco_01.py
                  s4m train-student configs/coco/coco_01.py
Time and memory:  not measured, estimated in docs/reproduction.md
                  (teacher: 368,750 steps of 16 images of 1024 x 1024; student: 368,750 of 12 + 12)
Expected AP:      not measured here; the paper's student: 24.2; its teacher: 15.1, without structural
                  distillation 13.5
"""

_base_ = ["../_base_/coco.py"]

data = dict(labeled="splits/01/labeled.json", unlabeled="splits/01/unlabeled.json")
