"""The coordinator: rounds in turns over worker processes."""
