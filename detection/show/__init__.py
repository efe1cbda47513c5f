"""Reports of a run: what is printed while it goes."""
