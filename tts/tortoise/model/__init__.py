"""TorToise's networks, one a file."""
