"""Weights in and out: files, layouts, the hub."""
