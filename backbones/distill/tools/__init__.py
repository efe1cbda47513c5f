"""Work on whole stores: verifying, merging, exchanging with the official code."""
