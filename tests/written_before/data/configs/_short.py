"""What runs of a few iterations share."""

seed = 11
checkpoint_interval = 4
log_interval = 1
workers = 0
cache = False
