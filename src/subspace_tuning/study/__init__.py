"""A study: what many runs say, with how much certainty, beside what the paper says."""
