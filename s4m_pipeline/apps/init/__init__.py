"""An experiment for a user's own images: what `s4m init` checks, splits, sizes and writes."""
