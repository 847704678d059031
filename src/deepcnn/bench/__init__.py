"""Measurements of this machine: what `deepcnn bench` runs."""
