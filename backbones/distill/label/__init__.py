"""Labelling: a teacher's pass over images into a store."""
