"""Image-level labels as people write them."""
