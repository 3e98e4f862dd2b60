"""Weights and pseudo-labels in forms that other programs read."""
