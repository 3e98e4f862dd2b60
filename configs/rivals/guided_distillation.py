"""Guided Distillation (Berrada et al., WACV 2024): a burn-in with fixed labels, then an EMA teacher.

Row (I) of S4M's components: the config without distillation, refinement and pasting.

Reported in S4M's paper, Cityscapes, 5 / 10 / 20 / 30 % labeled: AP 23.0 / 30.8 / 33.1 / 35.6
"""

sd = dict(enabled=False)
refine = dict(prompt=None, accept="all", ignore_below=0.0)
student = dict(arp=dict(fraction=0.0))
