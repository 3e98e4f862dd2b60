"""A package for each command that is no stage of the pipeline; none imports another."""
