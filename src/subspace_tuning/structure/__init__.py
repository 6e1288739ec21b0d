"""What each weight of a model is for, read off its modules: blocks, roles, fused weights, the head."""
