"""Cloned speech beside real recordings."""
