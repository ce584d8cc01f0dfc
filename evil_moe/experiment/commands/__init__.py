"""What the commands of `evil-moe` do."""
