"""Weights of other projects under the names of this one: a table each, no second network."""
