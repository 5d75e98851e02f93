"""Measures the parts of the system; `toco benchmark --help` lists them."""
