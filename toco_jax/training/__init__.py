"""A run: its step, its optimiser, its loop and what it logs."""
