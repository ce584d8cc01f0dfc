"""The policy with random weights, on which commands are tried that start neither Ray nor vLLM."""

from tests.recipe.conftest import tiny_policy

__all__ = ["tiny_policy"]
