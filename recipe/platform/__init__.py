"""The machine: a CPU as one of verl's platforms, and whether verl, vLLM and Ray have what a run needs."""
