"""Image operators that the method stands on: resizing, the lattice filter, the dense CRF."""
