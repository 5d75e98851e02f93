"""Reads image-level labels in the ways that people and tools write them."""
