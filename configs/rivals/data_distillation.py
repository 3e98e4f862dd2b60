"""Data Distillation (Radosavovic et al., CVPR 2018): labels of one teacher, from several views of each image.

The teacher's probabilities are means over scales and mirror images, and as many objects per class are labeled
as the labeled images show; there is no EMA teacher and no strong augmentation. Different here: the views are
joined query by query, not box by box, and the student starts as that of the config.

Reported in S4M's paper, Cityscapes, 5 / 10 / 20 / 30 % labeled: AP 13.7 / 19.2 / 24.6 / 27.4
"""

sd = dict(enabled=False)
refine = dict(prompt=None, accept="all", ignore_below=0.0, min_score=0.3, augmented=True)
student = dict(
    refresh_every=None,
    unlabeled_weight=1.0,
    match_counts=True,
    arp=dict(fraction=0.0),
    photometric=dict(jitter_p=0.0, grey_p=0.0, blur_p=0.0),
)
