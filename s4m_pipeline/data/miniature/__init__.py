"""Tiny data sets in the layout and encodings of Cityscapes and COCO, to test a reproduction with."""
