"""The configs: an overlay on verl's own, presets, arms, hypotheses. A package, so that no other folder `configs` stands before it."""
