"""HTML pages from arrays and numbers."""
