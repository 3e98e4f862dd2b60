"""Mask2Former with Swin-B as mmdet has it: backbone, initial weights, what AdamW leaves undecayed in it."""

_base_ = ["./swin_t.py"]

_undecayed = dict(lr_mult=0.1, decay_mult=0.0)

model = dict(
    backbone=dict(
        pretrain_img_size=384,
        embed_dims=128,
        depths=[2, 2, 18, 2],
        num_heads=[4, 8, 16, 32],
        window_size=12,
        init_cfg=dict(
            checkpoint="https://github.com/SwinTransformer/storage/releases/download/v1.0.0/"
            "swin_base_patch4_window12_384.pth"
        ),
    ),
    panoptic_head=dict(in_channels=[128, 256, 512, 1024]),
)
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={f"backbone.stages.2.blocks.{block}.norm": _undecayed for block in range(18)}
    )
)
