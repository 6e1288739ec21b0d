"""Judgements of causal language models: what a model is worth on rows, by one kind of measure a file."""
