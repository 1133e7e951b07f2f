"""Rendered hands with exact truth: recordings, training crops and calibration boards made by this project alone."""
