"""What is measured, and what was found: plain data."""
