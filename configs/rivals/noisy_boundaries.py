"""Noisy Boundaries (Wang et al., CVPR 2022): thresholds by class, and mask losses that forgive outlines.

As many objects per class are labeled as the labeled images show, by one teacher. Different here: there is no
mask head that could work at a low resolution, so tolerance and boundary weights become one weight of the
pixels on outlines, in the cross-entropy of each query's mask.

Reported in S4M's paper, Cityscapes, 5 / 10 / 20 / 30 % labeled: AP 17.1 / 22.1 / 29.0 / 32.4
"""

sd = dict(enabled=False)
refine = dict(prompt=None, accept="all", ignore_below=0.0, min_score=0.3)
student = dict(refresh_every=None, match_counts=True, outline_weight=0.5, arp=dict(fraction=0.0))
