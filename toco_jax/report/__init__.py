"""Pages that show a run, a comparison, an evaluation or predictions; they need no JAX."""
