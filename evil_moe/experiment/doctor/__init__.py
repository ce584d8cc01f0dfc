"""`evil-moe doctor`: what would fail, before it fails, and the memory plan of the preset."""
