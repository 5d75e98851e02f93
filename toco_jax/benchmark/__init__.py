"""Measures the parts of the system, one sub-command a part.

    python -m toco_jax.benchmark step        the training step: seconds, images/s, FLOP/s, memory
    python -m toco_jax.benchmark lattice     the bilateral filter of the dense energy
    python -m toco_jax.benchmark crf         the dense CRF of the evaluation
    python -m toco_jax.benchmark par         pixel-adaptive refinement
    python -m toco_jax.benchmark attention   the encoder's attention, by implementation
    python -m toco_jax.benchmark compile     tracing, lowering and compiling the step
    python -m toco_jax.benchmark scaling     what the devices exchange, and what it costs on paper
    python -m toco_jax.benchmark plan        the step compiled for devices that are not here
    python -m toco_jax.benchmark pipeline    decoding and augmenting images

Each prints the hardware and a table of medians, and writes them as JSON with `--json FILE`. What is
compared is measured in turns in one process, after a warm-up, so that a machine's other work falls
on all alike; a time on a device ends when the device has finished.
"""
