"""Importing mmcv and mmdet without compiled operators, and leaving compiled ones alone.

Each case runs in a fresh interpreter, because what is tested is the import itself.
"""

import os
import subprocess
import sys

WITHOUT_OPS = """
import sys
sys.modules["mmcv._ext"] = None  # Python's own mark for "cannot be imported", should this machine have it
"""

# A module that the import system really finds beside mmcv's own files, with every operator by name.
COMPILED_OPS = """
def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return lambda *args, **kwargs: called(name, *args)

def called(name, value, *args):
    print("compiled", name)
    batch, _, heads, width = value.shape
    return value.new_zeros(batch, 12, heads * width)
"""
WITH_OPS = """
import mmcv
mmcv.__path__.insert(0, {folder!r})
"""

ON_CUDA = """
import torch, mmcv.utils
mmcv.utils.IS_CUDA_AVAILABLE = True  # as on a machine with a GPU; mmcv.ops copies this flag when imported

class PretendCuda(torch.Tensor):
    '''A CPU tensor that says it is on a GPU, as does everything computed from it.'''
    is_cuda = True

def attend(kind):
    from mmcv.ops import MultiScaleDeformableAttention
    torch.manual_seed(0)
    layer = MultiScaleDeformableAttention(embed_dims=8, num_heads=2, num_levels=1, batch_first=True).eval()
    return layer(
        query=torch.rand(1, 12, 8),
        value=torch.rand(1, 12, 8).as_subclass(kind),
        reference_points=torch.rand(1, 12, 1, 2),
        spatial_shapes=torch.tensor([[3, 4]]),
        level_start_index=torch.tensor([0]),
    ).as_subclass(torch.Tensor)
"""


def run_python(*parts: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(parts)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_register_all__without_compiled_ops__registers_mmdet_and_ops_explain_themselves():
    out = run_python(
        WITHOUT_OPS,
        """
from s4m_pipeline.core.errors import UserError
from s4m_pipeline.models.registry import compiled_ops_present
from s4m_pipeline.models.registry import register_all
register_all()
register_all()

import torch
from mmcv.ops import nms
from mmdet.registry import MODELS
assert not compiled_ops_present()
assert all(MODELS.get(name) for name in ("Mask2Former", "Mask2FormerHead", "MSDeformAttnPixelDecoder"))
try:
    nms(torch.rand(2, 4), torch.rand(2), 0.5)
except UserError as error:
    print(error)
""",
    )
    assert "'nms'" in out
    assert "MMCV_WITH_OPS=1" in out


def test_deformable_attention__on_cuda_without_compiled_ops__takes_the_torch_path():
    run_python(
        WITHOUT_OPS,
        ON_CUDA,
        """
from s4m_pipeline.models.registry import stand_in_for_missing_ops
stand_in_for_missing_ops()
assert torch.equal(attend(PretendCuda), attend(torch.Tensor))
""",
    )


def test_deformable_attention__on_cuda_with_compiled_ops__takes_the_compiled_op(tmp_path):
    (tmp_path / "_ext.py").write_text(COMPILED_OPS)
    out = run_python(
        WITH_OPS.format(folder=str(tmp_path)),
        ON_CUDA,
        """
from s4m_pipeline.models.registry import compiled_ops_present, stand_in_for_missing_ops
assert compiled_ops_present()
stand_in_for_missing_ops()
attend(PretendCuda)
import mmcv._ext
assert mmcv._ext.__file__.endswith("_ext.py")
""",
    )
    assert out == "compiled ms_deform_attn_forward\n"


def test_import_of_mmdet__without_compiled_ops_and_stand_in__is_the_fault_that_this_fixes():
    out = run_python(
        WITHOUT_OPS,
        """
try:
    import mmcv.ops
except ModuleNotFoundError as error:
    print(error)
""",
    )
    assert "mmcv._ext" in out
