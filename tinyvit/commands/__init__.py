"""The commands, one module a room; each has ``register(app)``, which adds its commands to the front
door.
"""
