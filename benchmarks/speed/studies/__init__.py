"""Fixed questions asked with the harness, one script each."""
