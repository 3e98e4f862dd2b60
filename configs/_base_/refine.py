"""Pseudo-labels as in the paper: confident queries with a visible mask, three points each, no NMS."""

refine = dict(prompt="points", points=3, min_score=0.7, min_soft_area=5.0, nms_iou=None)
