"""The verl recipe: a file per extension point of verl 0.9.1, and what `evil-moe` does besides in `commands/` and `doctor/`.

Nothing outside this package knows verl.
"""
