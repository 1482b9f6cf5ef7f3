"""Random shapes in coefficients: identities of a basis, expressions in groups, and the arcs, pairs and wrinkles that go with them.

A shape is a row of coefficients over the modes of :class:`fitjax.model.nonlinear_shape.NonlinearShape`: identity, extra, expression. **Frozen**, see
:func:`fitjax.train.generator.generator_hash`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

#: Share of faces without any expression, and of expressions that take part in one.
_NEUTRAL, _ACTIVE = 0.1, 0.22


def random_expressions(names: tuple[str, ...], upper: np.ndarray, count: int, seed: int) -> np.ndarray:
    """(count, E) coefficients in [0, upper]: a few expressions at a time, left and right mostly together, the jaw and the lids often."""
    random = np.random.default_rng([seed, 7])
    often = {
        "jawOpen": 0.45,
        "eyeBlink": 0.3,
        "mouthSmile": 0.4,
        "browInnerUp": 0.3,
        "browDown": 0.3,
        "tongueOut": 0.02,
    }
    values = np.zeros((count, len(names)))
    pairs: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for k, name in enumerate(names):
        stem = name.removesuffix("Left").removesuffix("Right")
        share = often.get(stem, _ACTIVE)
        if stem not in pairs:
            pairs[stem] = random.random(count) < share, random.beta(1.0, 1.4, count)
        active, amount = pairs[stem]
        aside = random.random(count) < 0.25
        own = random.beta(1.0, 1.4, count) * (random.random(count) < 0.6)
        values[:, k] = np.where(aside, own, amount) * active
    return (values * upper * (random.random((count, 1)) > _NEUTRAL)).astype(np.float32)


def random_identities(n_identity: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(count, K) standard normal codes and (count,) ages in units of their spread."""
    random = np.random.default_rng([seed, 11])
    return random.normal(size=(count, n_identity)).astype(np.float32), random.normal(size=count).astype(np.float32)


def shape_coefficients(arcs: Any, identity: np.ndarray, age: np.ndarray, expression: np.ndarray) -> np.ndarray:
    """(N, K + X + E) coefficients over the extended modes."""
    return np.concatenate([identity, np.asarray(arcs.coefficients(age, expression)), expression], 1)
