"""S4M: semi-supervised instance segmentation with SAM 2 as an offline pipeline."""
