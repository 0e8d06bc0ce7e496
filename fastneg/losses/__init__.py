"""The public losses, one module each."""
