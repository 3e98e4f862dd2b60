"""Tiny data sets in the layout and encodings of Cityscapes and COCO, to try a whole reproduction with."""
