"""Costs of programs, without running them."""
