"""Cityscapes as in the paper, with ResNet-50; configs/cityscapes sets the share of labels."""

_base_ = ["./cityscapes_recipe.py", "./mask2former_r50.py", "./adamw.py"]
