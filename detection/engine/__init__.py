"""Training and evaluation: the run, its seeds, optimiser, schedule and options."""
