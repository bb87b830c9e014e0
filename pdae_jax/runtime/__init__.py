"""Devices and processes, and small things that every layer uses."""
