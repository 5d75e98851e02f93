"""Devices, processes, checkpoints and files."""
