"""PEFT's own types in our words, both ways: one entry a type, and what an adapter of one says."""
