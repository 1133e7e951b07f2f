"""The `hamuco` command and the one place that wires cameras, estimator, fusion and stream together."""
