"""Recognisers side by side."""
