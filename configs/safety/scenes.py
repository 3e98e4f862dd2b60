"""Whether unlabeled images do harm, on the demo's scenes: SAM 2 helps there.

Commands:         make safety, or (after `s4m data demo` and `s4m data split` as in configs/demo/demo.py)
                  s4m ablation configs/safety/scenes.py --table safety
Time and memory:  docs/ablations.md; memory not measured
Expected AP:      docs/ablations.md
"""

_base_ = ["../demo/ablation.py"]

sd = dict(enabled=False)
