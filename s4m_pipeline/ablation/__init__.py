"""The paper's ablations as tables of settings, and what trains no network twice to fill them."""
