"""COCO with 2 % of train2017 labelled.

Data:             docs/cityscapes.md, split of 2 %
Commands:         s4m reproduce coco ROOT --percent 2, or stage by stage:
                  s4m pretrain-teacher configs/coco/coco_02.py
                  s4m refine configs/coco/coco_02.py
                  s4m train-student configs/coco/coco_02.py
Time and memory:  not measured, estimated in docs/reproduction.md
                  (teacher: 368,750 steps of 16 images of 1024 x 1024; student: 368,750 of 12 + 12)
Expected AP:      not measured here; the paper's student: 28.1; its teacher: 20.3, without structural
                  distillation 19.5
"""

_base_ = ["../_base_/coco.py"]

data = dict(labeled="splits/02/labeled.json", unlabeled="splits/02/unlabeled.json")
