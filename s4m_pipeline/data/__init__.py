"""Data sets in COCO format: reading, checking, splitting, and the demo scenes."""
