"""Record sources, one module for each kind of data set."""
