"""The measures themselves: signal distances, perceptual measures, error rates."""
