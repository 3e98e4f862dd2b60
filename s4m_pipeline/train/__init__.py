"""mmengine's Runner and what is around a training step."""
