"""From image files to batches: sources, augmentation, the grain pipeline."""
