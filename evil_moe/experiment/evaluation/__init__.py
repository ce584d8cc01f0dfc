"""The causal ablation of a trained run: its sides, its rates, and what is said of them."""
