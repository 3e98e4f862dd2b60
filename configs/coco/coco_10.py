"""COCO with 10 % of train2017 labelled.

Data:             docs/cityscapes.md, split of 10 %
Commands:         s4m reproduce coco ROOT --percent 10, or stage by stage:
                  s4m pretrain-teacher configs/coco/coco_10.py
                  s4m refine configs/coco/coco_10.py
                  s4m train-student configs/coco/coco_10.py
Time and memory:  not measured, estimated in docs/reproduction.md
                  (teacher: 368,750 steps of 16 images of 1024 x 1024; student: 368,750 of 12 + 12)
Expected AP:      not measured here; the paper's student: 34.6; its teacher: 30.3, without structural
                  distillation 30.1
"""

_base_ = ["../_base_/coco.py"]

data = dict(labeled="splits/10/labeled.json", unlabeled="splits/10/unlabeled.json")
