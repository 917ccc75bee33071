"""The files that models over codes are trained on, and how they are made of a corpus."""
