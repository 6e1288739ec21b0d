"""Distance from the floor: what a training step of each method costs, and what it could not cost less than."""
