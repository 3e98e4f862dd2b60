"""The HTML report of an experiment, and its pictures."""
