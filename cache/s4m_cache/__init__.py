"""The pseudo-label cache: numpy and Zarr only, no torch."""
