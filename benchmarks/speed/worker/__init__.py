"""What runs inside a worker process: engines, memory, energy, profiles."""
