"""Training of nonlinear face models: generators of faces, coefficients, steps, checkpoints. Nothing here is imported by a fit."""
