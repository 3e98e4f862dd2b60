"""S4M with chosen labels: calibrated acceptance, ignored regions, thresholds by class, weights by scores.

The validation images choose between SAM's mask and the teacher's for each label, and which labels are neither
objects nor background. Many labels are made; of each class as many are taken as the labeled images show, and
weighted by their scores.

Not a published method.
"""

sd = dict(enabled=False)
refine = dict(prompt="auto", accept="calibrated", ignore_below=0.3, min_score=0.4)
student = dict(match_counts=True, score_weights=True)
