"""Saved outputs of PyTorch and transformers, the script that made them, and what both sides start from."""
