"""A Mask2Former small enough for two CPU cores, and an optimizer for short trainings: the demo's network.

The shipped initial weights fit it: init_from="small" (s4m_pipeline/models/demo_init).
"""

_base_ = ["./mask2former_r50.py", "./adamw.py"]

_width = 64
_attention = dict(embed_dims=_width, num_heads=4)
_ffn = dict(embed_dims=_width, feedforward_channels=4 * _width)

model = dict(
    backbone=dict(
        depth=18, base_channels=16, stem_channels=16, norm_cfg=dict(requires_grad=True), norm_eval=False
    ),
    panoptic_head=dict(
        in_channels=[16, 32, 64, 128],
        feat_channels=_width,
        out_channels=_width,
        num_queries=15,
        pixel_decoder=dict(
            norm_cfg=dict(num_groups=16),
            encoder=dict(num_layers=1, layer_cfg=dict(self_attn_cfg=_attention, ffn_cfg=_ffn)),
            positional_encoding=dict(num_feats=_width // 2),
        ),
        positional_encoding=dict(num_feats=_width // 2),
        transformer_decoder=dict(
            num_layers=3,
            layer_cfg=dict(self_attn_cfg=_attention, cross_attn_cfg=_attention, ffn_cfg=_ffn),
        ),
    ),
    train_cfg=dict(num_points=256),  # of the 32 x 32 cells of a mask of a 128 x 128 image
    test_cfg=dict(max_per_image=30),
)
optim_wrapper = dict(
    optimizer=dict(lr=1e-3),
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=1.0))),
    clip_grad=dict(max_norm=1.0),
)
