"""Whether unlabeled images do harm, on a real photograph: gray tiles with parts of coins, few labels.

Commands:         make safety, or
                  s4m data coins data/coins
                  s4m ablation configs/safety/coins.py --table safety
Time and memory:  docs/ablations.md; memory not measured
Expected AP:      docs/ablations.md
"""

_base_ = ["cells.py"]

data = dict(root="data/coins")
refine = dict(ground_truth="unlabeled_truth.json")
