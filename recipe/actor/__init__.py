"""The actor stop: the training engine, the worker around it, and what of a batch they may see."""
