"""COCO as in the paper, with ResNet-50; configs/coco sets the share of labels."""

_base_ = ["./coco_recipe.py", "./mask2former_r50.py", "./adamw.py"]

model = dict(data_preprocessor=dict(batch_augments=_base_._batch_augments))
