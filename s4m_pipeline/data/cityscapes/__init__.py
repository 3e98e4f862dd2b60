"""Cityscapes: file layout, labels, polygons, conversion to COCO JSON."""
