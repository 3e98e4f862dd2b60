"""PAIS (Hu et al., ICCV 2023): no threshold; the losses of a label are weighted by its class and mask scores.

Every query whose most likely class is an object is a label. Different here: the weight of the class loss is
the class score and that of the mask losses is the mean probability inside the mask; the paper's dynamic
aligning loss combines both scores.

Reported in S4M's paper, Cityscapes, 5 / 10 / 20 / 30 % labeled: AP 18.0 / 22.9 / 29.2 / 32.8
"""

sd = dict(enabled=False)
refine = dict(prompt=None, accept="all", ignore_below=0.0, min_score=0.0)
student = dict(score_weights=True, arp=dict(fraction=0.0))
