"""Cityscapes as in the paper, with ResNet-50 and 10 % of the training images labeled.

Data:             docs/cityscapes.md, split of 10 %; for 5, 20 or 30 %, give each command
                  --set data.labeled=splits/20/labeled.json --set data.unlabeled=splits/20/unlabeled.json
                  --work-dir work_dirs/cityscapes_20
Commands:         s4m reproduce cityscapes ROOT --percent 10, or stage by stage:
                  s4m pretrain-teacher configs/cityscapes/cityscapes.py
                  s4m refine configs/cityscapes/cityscapes.py
                  s4m train-student configs/cityscapes/cityscapes.py
Time and memory:  not measured, estimated in docs/reproduction.md
                  (teacher: 90,000 iterations, batch size 4, crops of 512 x 1024; student: 90,000, 16 + 16)
Expected AP:      not measured here; the paper, with 5 / 10 / 20 / 30 % labeled:
                  student 30.1 / 33.3 / 37.3 / 37.8, teacher 17.2 / 22.5 / 29.6 / 32.0,
                  teacher without structural distillation 14.9 / 19.0 / 27.6 / 29.9
"""

_base_ = ["../_base_/cityscapes_recipe.py", "../_base_/mask2former_r50.py", "../_base_/adamw.py"]
