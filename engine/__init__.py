"""From pixels to per-view hands: hand model, crops, detector, landmark network."""
