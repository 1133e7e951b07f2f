"""Frames in: camera sources, grabber processes, synchronization, recordings."""
