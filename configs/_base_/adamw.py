"""AdamW as in the paper: backbone at a tenth of the rate, no decay on norms and embeddings."""

_undecayed = dict(lr_mult=1.0, decay_mult=0.0)

optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=1e-4, weight_decay=0.05, fused=True),
    paramwise_cfg=dict(
        custom_keys={
            "backbone": dict(lr_mult=0.1),
            "query_embed": _undecayed,
            "query_feat": _undecayed,
            "level_embed": _undecayed,
        },
        norm_decay_mult=0.0,
    ),
    clip_grad=dict(max_norm=0.01),
)
