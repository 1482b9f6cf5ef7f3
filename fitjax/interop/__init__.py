"""Results in the terms of other tools, and back: 3DDFA's 62 numbers, DECA's dictionaries, ARKit weights, models of the package `body-models`.

What each one means, and how exactly it holds what a fit found: docs/interoperability.md.
"""
