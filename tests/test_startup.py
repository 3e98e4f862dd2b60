"""Quick starts: what a command that uses a network does not import."""

import subprocess
import sys

CODE = """
import sys
from s4m_pipeline.core.startup import leave_out_unused
leave_out_unused()
from s4m_pipeline.apps.predict.predictor import Predictor
from s4m_pipeline.models.registry import register_all
register_all()
from mmengine.runner import Runner
from mmdet.registry import HOOKS, MODELS, TRANSFORMS, VISUALIZERS
found = {"Mask2Former": MODELS, "BatchedMask2FormerHead": MODELS, "RandomCrop": TRANSFORMS}
assert all(registry.get(name).__name__ == name for name, registry in found.items())
slow = "imgaug matplotlib.pyplot numba sympy scipy.stats scipy.interpolate torch.distributed.fsdp"
print([name for name in slow.split() if name in sys.modules])
from mmdet.utils import imshow_mot_errors
try:
    imshow_mot_errors()
except ImportError as error:
    print(error)
assert HOOKS.get("NumClassCheckHook") and VISUALIZERS.get("DetLocalVisualizer")
"""


def test_commands__slow_modules_that_nothing_uses__are_not_imported_and_raise_when_used():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    loaded, error = done.stdout.splitlines()
    assert loaded == "[]"
    assert "mmdet.utils.mot_error_visualize is left out" in error


def test_library__imported_by_a_program__leaves_other_packages_alone():
    code = "import s4m_pipeline.apps.predict.predictor; from mmdet.utils import imshow_mot_errors as drawn"
    code += "; drawn.__code__"
    subprocess.run([sys.executable, "-c", code], check=True)
