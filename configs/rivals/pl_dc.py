"""PL-DC (arXiv 2505.11075): separate thresholds of class and mask quality, and masks weighted by uncertainty.

The class threshold of each class moves with the generations. Different here: the mask threshold is one for
all classes and fixed (ours); a pixel is uncertain on the outline of its label, because the cache holds no
mask probabilities; classes are not corrected by a text-image model.

S4M's paper reports no figure.
"""

sd = dict(enabled=False)
refine = dict(prompt=None, accept="all", ignore_below=0.0, min_score=0.3, min_mask_score=0.7)
student = dict(match_counts=True, outline_weight=0.5, arp=dict(fraction=0.0))
