"""Repeatable measurements: ``python -m benchmarks``. Every figure in the documentation comes from here."""
