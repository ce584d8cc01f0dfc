"""The verl recipe: what knows verl, Ray or vLLM, by the stops of the data's path, and the entry points.

Experiments are prepared, watched and reported in `evil_moe.experiment`, which is told by `recipe.cli` how to train and to
generate; the method is `evil_moe`.
"""
