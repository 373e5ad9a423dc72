"""Measurements behind the figures in the documentation: one runnable module a question."""
