"""The student: its batch steps, its losses and what feeds it (paper, section 3.3)."""
