"""The ablations on the embedded data: the demo with a schedule that fits many trainings into an hour or two.

Students start from their teacher's weights and keep its labels: what differs is what they learn from.

Commands:         make ablation, or (after the demo's `s4m data` commands)
                  s4m ablation configs/demo/ablation.py --table components --jobs 2
                  s4m ablation configs/demo/ablation.py --table control --jobs 2
Time and memory:  docs/ablations.md; memory not measured
Expected AP:      docs/ablations.md
"""

_base_ = ["demo.py"]

model = dict(train_cfg=dict(num_points=256))
teacher = dict(iterations=400)
student = dict(iterations=300, init_from="teacher", burn_in=0, refresh_every=None, validate_every=300)
sd = dict(weight=10.0, points=16)
