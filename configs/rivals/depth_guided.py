"""Depth-Guided (Chen et al., arXiv 2406.17413): Guided Distillation with depth maps beside the images.

Teacher and student take each image with its depth map: features of both are mixed, and a controller decides
for each image and level how much the mixture counts. Different here: the depth map has a small encoder that
is trained with the network, in place of a pretrained one; the mixture is added to the image's features; the
publication's controller, whose details we do not know, also balances the losses of image and depth.
`s4m data depth` makes the folder `depth`; drawn crowds have true depth maps, better than any estimate.

Reported in S4M's paper, Cityscapes, 5 / 10 / 20 / 30 % labeled: AP 23.2 / 30.9 / 34.1 / 36.7
"""

data = dict(depth="depth")
sd = dict(enabled=False)
refine = dict(prompt=None, accept="all", ignore_below=0.0)
student = dict(arp=dict(fraction=0.0))
