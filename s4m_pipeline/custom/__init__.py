"""From a person's own images to an experiment: what `s4m init` checks, splits, sizes and writes."""
