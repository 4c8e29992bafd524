"""Reference outputs of PyTorch and transformers, the scripts that compute them, and the seeded inputs."""
