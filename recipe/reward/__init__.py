"""The reward stop: verl's reward manager over a pool of sandboxes."""
