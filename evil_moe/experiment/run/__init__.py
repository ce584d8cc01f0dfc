"""A run's folder, what stands in it, and what a person sees of it."""
