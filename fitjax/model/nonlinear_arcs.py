"""What linear expressions lack: jaws, lids and eyeballs that move on arcs, combinations that saturate, wrinkles that come with age and expression.

Each is a fixed displacement of the vertices times a number computed from the expression coefficients ``e`` and the age:

    arc of expression j     4 e_j (1 - e_j)     the linear path cuts the corner of a rotation; exact at both ends and half-way
    pair (i, j)             e_i e_j             two displacements of the same skin do not simply add
    wrinkle                 age² · activity     ridges along the normal

So a shape stays linear in an *extended* list of modes, and everything that slices a linear basis works on it. Arcs and pairs exist for models whose
expressions have ARKit's names, wrinkles for those with the sample set ``mediapipe478``; for others the list is shorter.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fitjax.geometry.host_mesh import vertex_normals
from fitjax.pytree import pytree, static

#: Expressions that turn something, and what about: the hinge of the jaw (an axis along x), or an eyeball (a point).
_ARCS = {"jawOpen": "jaw"} | {
    f"eye{kind}{side}": side
    for side in ("Left", "Right")
    for kind in ("Blink", "LookDown", "LookIn", "LookOut", "LookUp")
}
#: Expressions that move the same skin.
_PAIRS = (
    ("jawOpen", "mouthSmileLeft"), ("jawOpen", "mouthSmileRight"), ("jawOpen", "mouthFunnel"), ("jawOpen", "mouthPucker"),
    ("jawOpen", "mouthStretchLeft"), ("jawOpen", "mouthStretchRight"), ("mouthSmileLeft", "cheekSquintLeft"),
    ("mouthSmileRight", "cheekSquintRight"), ("mouthFunnel", "mouthPucker"), ("browDownLeft", "browInnerUp"),
    ("browDownRight", "browInnerUp"), ("noseSneerLeft", "mouthUpperUpLeft"), ("noseSneerRight", "mouthUpperUpRight"),
    ("eyeBlinkLeft", "cheekSquintLeft"), ("eyeBlinkRight", "cheekSquintRight"),
)  # fmt: skip
#: Share of the smaller displacement that is lost where both act fully.
_SATURATION = 0.6
#: Wrinkles and the expressions whose mean activates them; height of the ridges, metres.
_WRINKLES = {
    "forehead": ("browInnerUp", "browOuterUpLeft", "browOuterUpRight"),
    "glabella": ("browDownLeft", "browDownRight"),
    "crow": ("eyeSquintLeft", "eyeSquintRight", "mouthSmileLeft", "mouthSmileRight"),
    "fold": ("mouthSmileLeft", "mouthSmileRight"),
}
_RIDGE = 4e-4


@pytree
class Arcs:
    """How the extra coefficients follow from age and expression.

    Attributes:
        wrinkle_mix: (W, E) mean of the expressions that activate each wrinkle.
        arcs: indices of the expressions on arcs. pairs: of those that saturate. Both are structure.
    """

    wrinkle_mix: Float[Array, "W E"]
    arcs: tuple[int, ...] = static(default=())
    pairs: tuple[tuple[int, int], ...] = static(default=())

    @property
    def count(self) -> int:
        return len(self.arcs) + len(self.pairs) + self.wrinkle_mix.shape[0]

    def coefficients(self, age: Float[Array, "*b"], expression: Float[Array, "*b E"]) -> Float[Array, "*b X"]:
        """Those of the extra modes; ``age`` in units of its spread, 0 the middle."""
        e = expression
        turned = e[..., list(self.arcs)]
        first, second = ([pair[k] for pair in self.pairs] for k in (0, 1))
        active = jnp.matmul(e, self.wrinkle_mix.T, precision="highest")
        # Between 0 and 1, and smooth: 0.5 is the middle.
        old = 0.5 + 0.5 * jnp.tanh(0.8 * jnp.asarray(age))[..., None]
        wrinkled = old**2 * (0.25 + 1.5 * active)
        return jnp.concatenate([4 * turned * (1 - turned), e[..., first] * e[..., second], wrinkled], -1)


def arcs_of(model: Any) -> tuple[Arcs, np.ndarray]:
    """The rule, and the extra modes (X, V, 3) in metres, of a linear model.

    Args:
        model: :class:`fitjax.model.linear.LinearModel` at any level.
    """
    names = list(model.expression_names)
    vertices = np.asarray(model.mean, np.float64)
    modes = np.asarray(model.modes, np.float64)[model.n_identity :].reshape(len(names), -1, 3)
    landmark = _landmarks(model, vertices)
    centres = _eyeballs(model, vertices)
    if landmark is not None:
        centres["jaw"] = landmark[[93, 323]].mean(0) - [0, 0, 0.01]
    arcs = [name for name, about in _ARCS.items() if name in names and about in centres]
    fields = [_arc(vertices, modes[names.index(n)], centres[_ARCS[n]], _ARCS[n] == "jaw") for n in arcs]
    pairs = [pair for pair in _PAIRS if pair[0] in names and pair[1] in names]
    fields += [_saturation(modes[names.index(a)], modes[names.index(b)]) for a, b in pairs]
    mix = np.zeros((0, len(names)))
    if landmark is not None:
        normals = vertex_normals(vertices, np.asarray(model.triangles))
        ridges = _ridges(vertices, landmark) * (_skin(model) * _RIDGE)
        fields += list(ridges[..., None] * normals)
        active = [[(n in wanted) / len(wanted) for n in names] for wanted in _WRINKLES.values()]
        mix = np.array(active).reshape(len(_WRINKLES), len(names))
    dtype = np.asarray(model.mean).dtype
    index = {name: k for k, name in enumerate(names)}
    rule = Arcs(jnp.asarray(mix, dtype), tuple(index[n] for n in arcs), tuple((index[a], index[b]) for a, b in pairs))
    return rule, np.array(fields, dtype).reshape(rule.count, len(vertices), 3)


def _landmarks(model: Any, vertices: np.ndarray) -> np.ndarray | None:
    if "mediapipe478" not in model.sample_library:
        return None
    samples = model.sample_library["mediapipe478"]
    corners = vertices[np.asarray(model.triangles)[np.asarray(samples.triangle)]]
    return np.einsum("skc,sk->sc", corners, np.asarray(samples.barycentric, np.float64))


def _skin(model: Any) -> np.ndarray:
    skin = np.zeros(model.n_vertices)
    skin[np.asarray(model.triangles)[np.asarray(model.triangle_region) == 0].reshape(-1)] = 1
    return skin


def _eyeballs(model: Any, vertices: np.ndarray) -> dict[str, np.ndarray]:
    ball = np.asarray(model.triangles)[np.asarray(model.triangle_region) == 1].reshape(-1)
    left, right = ball[vertices[ball, 0] > 0], ball[vertices[ball, 0] < 0]
    # Middle of the box, not the mean: the mesh is denser in front.
    return {
        side: 0.5 * (vertices[of].min(0) + vertices[of].max(0))
        for side, of in (("Left", left), ("Right", right))
        if len(of)
    }


def _arc(vertices: np.ndarray, displacement: np.ndarray, centre: np.ndarray, about_x: bool) -> np.ndarray:
    """(V, 3) from the middle of the linear path to the middle of the arc: the radius half-way is the mean of the radii at both ends."""
    keep = np.array([0.0, 1, 1]) if about_x else np.ones(3)
    start = (vertices - centre) * keep
    end = (vertices + displacement - centre) * keep
    middle = 0.5 * (start + end)
    length = [np.linalg.norm(x, axis=1, keepdims=True) for x in (start, middle, end)]
    wanted = 0.5 * (length[0] + length[2])
    # Near the axis a direction means nothing, and nothing moves there.
    return middle * (wanted / np.maximum(length[1], 1e-3) - 1) * (length[1] > 1e-3)


def _saturation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(V, 3) against the sum of two displacements, where both are large, as far as they point the same way."""
    size = [np.linalg.norm(x, axis=1, keepdims=True) for x in (first, second)]
    alike = np.maximum((first * second).sum(1, keepdims=True) / np.maximum(size[0] * size[1], 1e-12), 0)
    smaller = np.where(size[0] < size[1], first, second)
    return -_SATURATION * alike * smaller


def _ridges(vertices: np.ndarray, landmark: np.ndarray) -> np.ndarray:
    """(4, V) profiles in [-1, 1] on the mean face, in the order of ``_WRINKLES``."""
    mm = vertices * 1000
    at = landmark * 1000
    folded = mm * [0, 1, 1] + np.abs(mm[:, :1]) * [1, 0, 0]

    def bump(index: int, *width: float) -> np.ndarray:
        centre = at[index] * [0, 1, 1] + np.abs(at[index, :1]) * [1, 0, 0]
        return np.exp(-0.5 * (((folded - centre) / np.array(width)) ** 2).sum(1))

    bow = 0.0011 * folded[:, 0] ** 2
    forehead = np.cos(2 * np.pi * (folded[:, 1] - at[151, 1] + bow) / 9.0) * bump(151, 32, 14, 40)
    glabella = -np.cos(2 * np.pi * folded[:, 0] / 11.0) * bump(9, 9, 11, 14)
    corner = at[33] * [0, 1, 1] + np.abs(at[33, :1]) * [1, 0, 0]
    out, up = folded[:, 0] - corner[0], folded[:, 1] - corner[1]
    near = np.exp(-0.5 * ((np.hypot(out, up) - 12) / 6) ** 2) * (out > 0) * (np.abs(folded[:, 2] - corner[2]) < 25)
    crow = np.cos(2 * np.pi * 2.2 * np.arctan2(up, out + 3)) * near
    line = np.stack([at[k] * [0, 1, 1] + np.abs(at[k, :1]) * [1, 0, 0] for k in (129, 203, 206, 216, 212)])
    share = np.linspace(0, len(line) - 1, 80)
    dense = np.stack([np.interp(share, np.arange(len(line)), line[:, k]) for k in range(3)], -1)
    distance = np.sqrt(((folded[:, None] - dense[None]) ** 2).sum(-1).min(1))
    fold = (-1.5 * np.exp(-0.5 * (distance / 2.0) ** 2) + 0.8 * np.exp(-0.5 * (distance / 6.0) ** 2)).clip(-1, 1)
    return np.stack([forehead, glabella, crow, fold])
