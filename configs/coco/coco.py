"""COCO as in the paper, with ResNet-50 and 10 % of train2017 labeled.

Data:             docs/cityscapes.md, split of 10 %; for 1, 2 or 5 %, give each command
                  --set data.labeled=splits/02/labeled.json --set data.unlabeled=splits/02/unlabeled.json
                  --work-dir work_dirs/coco_02
Commands:         s4m reproduce coco ROOT --percent 10, or stage by stage:
                  s4m pretrain-teacher configs/coco/coco.py
                  s4m refine configs/coco/coco.py
                  s4m train-student configs/coco/coco.py
Time and memory:  not measured, estimated in docs/reproduction.md
                  (teacher: 368,750 iterations, batch size 16, 1024 x 1024; student: 368,750, 12 + 12)
Expected AP:      not measured here; the paper, with 1 / 2 / 5 / 10 % labeled:
                  student 24.2 / 28.1 / 32.1 / 34.6, teacher 15.1 / 20.3 / 26.1 / 30.3,
                  teacher without structural distillation 13.5 / 19.5 / 25.8 / 30.1
"""

_base_ = ["../_base_/coco_recipe.py", "../_base_/mask2former_r50.py", "../_base_/adamw.py"]

model = dict(data_preprocessor=dict(batch_augments=_base_._batch_augments))
