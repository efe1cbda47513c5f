"""The code inside a worker process: engines, memory, energy, profiles."""
