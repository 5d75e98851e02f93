"""Array functions that the method is built from: resizing, lattice filters, the dense CRF."""
