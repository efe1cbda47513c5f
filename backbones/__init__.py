"""How a backbone is built and trained."""
