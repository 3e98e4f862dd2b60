"""A trained network on images of any origin."""
