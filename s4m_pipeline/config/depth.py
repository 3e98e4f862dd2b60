"""What `data.depth` changes in a config: the transforms load depth maps, and the network takes them in."""

from typing import Any

CHANNEL_MEAN, CHANNEL_STD = 127.5, 64.0
"""Of a depth map as the network sees it, scaled to 0..255."""
_WIDTH = 32
"""Channels of the features of a depth map."""


def use_depth(config: dict[str, Any], folder: str) -> None:
    """Change a whole config, as plain values, so that each image has its depth map as a fourth channel.

    Args:
        folder: `data.depth`.
    """
    for name in ("train_pipeline", "test_pipeline"):
        loads, rest = [], list(config[name])
        while rest and str(rest[0].get("type")).startswith("Load"):
            loads.append(rest.pop(0))
        pack = rest[-1:]
        config[name] = [
            *loads,
            {"type": "LoadDepth", "folder": folder},
            *rest[:-1],
            {"type": "StackDepth"},
            *pack,
        ]
    preprocessor = config["model"]["data_preprocessor"]
    config["model"] = {
        **config["model"],
        "depth_width": _WIDTH,
        "data_preprocessor": {
            **preprocessor,
            "type": "ChannelsPreprocessor",
            "mean": [*preprocessor["mean"], CHANNEL_MEAN],
            "std": [*preprocessor["std"], CHANNEL_STD],
        },
    }
