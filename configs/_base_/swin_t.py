"""Mask2Former with Swin-T as mmdet has it: backbone, initial weights, what AdamW leaves undecayed in it."""

_base_ = ["./mask2former_r50.py", "./adamw.py"]

_depths = [2, 2, 6, 2]
_undecayed = dict(lr_mult=0.1, decay_mult=0.0)

model = dict(
    backbone=dict(
        _delete_=True,
        type="SwinTransformer",
        embed_dims=96,
        depths=_depths,
        num_heads=[3, 6, 12, 24],
        window_size=7,
        mlp_ratio=4,
        qkv_bias=True,
        drop_path_rate=0.3,
        patch_norm=True,
        out_indices=(0, 1, 2, 3),
        convert_weights=True,
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://github.com/SwinTransformer/storage/releases/download/v1.0.0/"
            "swin_tiny_patch4_window7_224.pth",
        ),
    ),
    panoptic_head=dict(in_channels=[96, 192, 384, 768]),
)
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={
            "backbone.patch_embed.norm": _undecayed,
            "backbone.norm": _undecayed,
            "absolute_pos_embed": _undecayed,
            "relative_position_bias_table": _undecayed,
            **{
                f"backbone.stages.{stage}.blocks.{block}.norm": _undecayed
                for stage, depth in enumerate(_depths)
                for block in range(depth)
            },
            **{f"backbone.stages.{stage}.downsample.norm": _undecayed for stage in range(3)},
        }
    )
)
