"""Makes labels, masks and records from the official files of a data set, once."""
