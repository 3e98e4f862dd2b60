"""Whether unlabeled images do harm, on drawn micrographs: dim cells that touch, 7 labeled tiles.

Commands:         make safety, or
                  s4m data cells data/cells
                  s4m ablation configs/safety/cells.py --table safety
Time and memory:  docs/ablations.md; memory not measured
Expected AP:      docs/ablations.md
"""

_base_ = ["scenes.py"]

data = dict(root="data/cells", labeled="train.json", unlabeled="unlabeled")  # val and test as the demo's
teacher = dict(iterations=300, validate_every=300)
refine = dict(ground_truth="unlabeled.json")
model = dict(panoptic_head=dict(num_queries=40), test_cfg=dict(max_per_image=40))
