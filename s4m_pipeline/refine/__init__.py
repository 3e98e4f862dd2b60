"""From a teacher's queries to refined pseudo-labels: selection, prompts, SAM 2."""
