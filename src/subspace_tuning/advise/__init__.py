"""Which method, which rank, which layers: what can be said before training. ``advice.py`` puts it together."""
