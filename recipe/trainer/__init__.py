"""The trainer stop: verl's synchronous trainer with the method's steps in it, and its queue of rollouts."""
