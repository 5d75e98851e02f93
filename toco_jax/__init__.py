"""ToCo, token contrast for weakly-supervised semantic segmentation, in JAX and Flax."""
