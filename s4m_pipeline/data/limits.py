"""Limits on what is accepted from a data set; light to import, so that the command line can show them."""

MAX_PIXELS = 100_000_000
"""Default limit on an image's width x height; 100 megapixels decode to 300 MB."""
