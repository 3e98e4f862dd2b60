"""Cityscapes in its own layout and encodings: names of files, labels, polygons, conversion to COCO JSON."""
