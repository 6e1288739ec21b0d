"""Pages of the documentation that follow from the methods."""
