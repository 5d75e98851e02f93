"""What is made once from the official files of a data set."""
