"""The method of the poster: CAMs, crops, refinement, losses, and the figure that joins them."""
