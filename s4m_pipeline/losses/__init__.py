"""Losses that mmdet does not have."""
