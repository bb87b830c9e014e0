"""Metrics of pictures: arrays in, numbers out."""
