"""What `evil-moe` does besides training and evaluating: one file per command; `handlers` picks it."""
