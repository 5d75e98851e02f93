"""Scores of a trained network on a split."""
