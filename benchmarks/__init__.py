"""Measurements: `speed` beside PyTorch, `growth` of cost with size, `input` of the loader
alone, `encoding_memory` of codes by the million.

Each runs from a bare checkout: python -m benchmarks.speed --help
"""
