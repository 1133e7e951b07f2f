"""Cameras and rigs: projection, undistortion, calibration files."""
