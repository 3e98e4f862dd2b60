"""A small but genuine SAM 2, trained on procedural scenes and shipped with the project; see MODEL_CARD.md."""
