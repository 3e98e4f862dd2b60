"""Whether unlabeled images do harm where SAM 2 is asked for places at which the objects are not.

Teacher, control and the labels as they are do not depend on SAM 2: see cells.py.

Commands:         make safety, or
                  s4m data cells data/cells
                  s4m ablation configs/safety/useless_sam.py --table safety --rows ours,paper
Time and memory:  docs/ablations.md; memory not measured
Expected AP:      docs/ablations.md
"""

_base_ = ["cells.py"]

custom_imports = dict(imports=["s4m_pipeline.apps.ablation.useless_sam"])
