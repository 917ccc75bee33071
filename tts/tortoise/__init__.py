"""TorToise as published (Betker 2023): its networks, its official weights, its pipeline."""
