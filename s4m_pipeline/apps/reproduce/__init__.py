"""The paper's experiments: its figures, what they need, and our figures beside them. Imports no torch."""
