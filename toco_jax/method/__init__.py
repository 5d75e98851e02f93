"""The poster: maps, crops, refinement, losses, and the figure that joins them."""
