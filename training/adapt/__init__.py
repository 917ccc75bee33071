"""A voice adapted from minutes of recordings: small matrices beside the weights that all voices share."""
