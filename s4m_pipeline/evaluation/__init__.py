"""Measures of predictions against ground truth."""
