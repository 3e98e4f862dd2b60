"""The one place that fills mmengine's registries: mmdet's modules and ours."""

from functools import cache

from s4m_pipeline.ops import stand_in_for_missing_ops


@cache
def register_all() -> None:
    """Registers everything a config may name, with `mmdet` as the default scope; may be called again.

    Takes seconds (it imports all of mmdet), so commands call it when the work begins, never at import.
    """
    stand_in_for_missing_ops()

    from mmdet.utils import register_all_modules

    register_all_modules(init_default_scope=True)
