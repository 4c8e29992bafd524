"""Speed and memory of numpy_gpt2 beside other implementations: `python -m bench`; see README.md."""
