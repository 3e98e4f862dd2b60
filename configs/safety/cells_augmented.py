"""As cells.py, with the teacher that `s4m init` writes without a GPU: it learns from augmented images too.

Commands:         make safety, or
                  s4m data cells data/cells
                  s4m ablation configs/safety/cells_augmented.py --table safety
Time and memory:  docs/ablations.md; memory not measured
Expected AP:      docs/ablations.md
"""

_base_ = ["cells.py"]

teacher = dict(iterations=400, validate_every=400, batch_size=16, augmented_fraction=0.5)
