"""Cityscapes with 10 % of the training images labeled, with Swin-B instead of the paper's ResNet-50.

Data:             docs/cityscapes.md, split of 10 %
Command:          s4m pretrain-teacher configs/cityscapes/cityscapes_swin_b.py
Time and memory:  not measured (90,000 iterations, batch size 4, crops of 512 x 1024)
Expected AP:      not measured; the paper has no such row
"""

_base_ = ["../_base_/cityscapes_recipe.py", "../_base_/swin_b.py"]

# The backbone's weights are named in model.backbone.init_cfg.
teacher = dict(init_from=None)
student = dict(init_from=None)
