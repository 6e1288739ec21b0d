"""A study, or a single run, as one HTML page: see `subspace report`."""
