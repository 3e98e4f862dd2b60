"""Draw masks on images, and arrange images in sheets."""
