"""Plain data: the measured subjects, and the results."""
