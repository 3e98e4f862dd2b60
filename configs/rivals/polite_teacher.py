"""Polite Teacher (Filipiak et al., 2022): an EMA teacher from the start, thresholds of class and mask scores.

Different here: labels are those of whole generations (`student.refresh_every` of the config), and the mask
score is the mean probability inside the mask, because Mask2Former has no head for it. Thresholds are ours.

S4M's paper reports no figure.
"""

sd = dict(enabled=False)
refine = dict(prompt=None, accept="all", ignore_below=0.0, min_score=0.5, min_mask_score=0.8)
student = dict(burn_in=0, arp=dict(fraction=0.0))
