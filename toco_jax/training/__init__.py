"""Training: the loop, the step, the optimiser, and what a run logs."""
