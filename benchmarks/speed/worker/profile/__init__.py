"""Time by class of operator, for each engine."""
