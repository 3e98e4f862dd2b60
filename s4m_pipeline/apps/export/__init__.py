"""Weights and pseudo-labels in the formats of other programs."""
