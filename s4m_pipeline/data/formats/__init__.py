"""Annotations in the formats of other programs, read and written: YOLO, LabelMe, label images."""
