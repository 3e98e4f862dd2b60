"""What unlabeled images could bring if SAM 2 answered with the true object each time.

Teacher, control and the labels as they are do not depend on SAM 2: see cells.py.

Commands:         make safety, or
                  s4m data cells data/cells
                  s4m ablation configs/safety/perfect_sam.py --table safety --rows ours,paper
Time and memory:  docs/ablations.md; memory not measured
Expected AP:      docs/ablations.md
"""

_base_ = ["cells.py"]

custom_imports = dict(imports=["s4m_pipeline.apps.ablation.perfect_sam"])
