"""One file per command: each stage reads top-down."""
