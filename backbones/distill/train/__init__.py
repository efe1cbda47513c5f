"""Training: a student from stored labels, from labels alone, or beside a teacher."""
