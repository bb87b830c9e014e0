"""File formats: from a file to its pictures, as NumPy arrays in the file's own numbers.

One module a format, each with `SUFFIXES` and `open_stack(file, layout)`; `files.open_stack`
chooses. Knows neither JAX nor data sets.
"""
