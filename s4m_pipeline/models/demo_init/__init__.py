"""The demo network's initial weights, which stand in for an ImageNet backbone; see RECIPE.md."""
