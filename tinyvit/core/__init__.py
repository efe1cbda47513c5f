"""The ground floor: what every room may use. Nothing here imports a room or torch."""
