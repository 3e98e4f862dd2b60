"""Glue between mmengine's Runner and this project: seeds, safe checkpoints, hooks, progress."""
