"""Procedural scenes of multi-part objects: the embedded data set, and training material of small models."""
