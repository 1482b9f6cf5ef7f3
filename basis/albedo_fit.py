"""Does the prior keep albedo and light apart, for all skin tones alike? python -m basis.albedo_fit [TRIALS]

Skin of the mean head seen from the front, random codes at six levels of melanin, random light and noise; albedo and light are fitted
together through their priors by Levenberg-Marquardt. The same lights, noise and other codes serve all levels: what differs between
levels is due to melanin.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

from fitjax.geometry.surface import points_from_corners
from fitjax.model.albedo import BiophysicalAlbedo, default_albedo
from fitjax.model.light_prior import light_from_code
from fitjax.model.load import load_basis
from fitjax.render.lighting import diffuse_shading

LEVELS = (-1.38, -0.67, -0.21, 0.21, 0.67, 1.38)  # the middles of six equal parts of the scale of tones
NOISE = 0.02  # of the picture's typical brightness
WEIGHT = 0.05  # what the fit takes as the spread of a residual: noise and what the model cannot do


def skin_points(parts: tuple[str, ...] = ("part_skin", "part_nose", "part_upper_lip", "part_lower_lip")) -> tuple:
    """UVs (S, 2) and normals (S, 3) in OpenCV camera axes of surface samples that face a frontal camera."""
    model = load_basis(level=1, sample_sets=())
    uv, normal = [], []
    for name in parts:
        samples = model.sample_library[name]
        triangle, weight = np.asarray(samples.triangle), np.asarray(samples.barycentric)
        corners = model.mean[model.triangles[triangle]]
        normal.append(np.asarray(points_from_corners(corners, samples.barycentric).normal) * [1, -1, -1])
        uv.append((np.asarray(model.uv)[np.asarray(model.uv_triangles)[triangle]] * weight[..., None]).sum(1))
    uv, normal = np.concatenate(uv), np.concatenate(normal)
    seen = normal[:, 2] < -0.2
    return uv[seen], normal[seen]


def fit(
    albedo: BiophysicalAlbedo, normals: jax.Array, picture: jax.Array, independent: float, steps: int = 60
) -> jax.Array:
    """Codes of albedo and light (K + 27,) that explain the picture (S, 3) best: MAP by Levenberg-Marquardt."""
    k = albedo.n_codes
    # Relative to the picture's own brightness: otherwise the same prior would weigh more on a darker face.
    scale = jnp.median(picture.mean(1)) * WEIGHT * jnp.sqrt(picture.size / independent)

    def residuals(x: jax.Array) -> jax.Array:
        shown = albedo.decode(x[:k]) * (diffuse_shading(normals, light_from_code(x[k:])))
        return jnp.concatenate([((shown - picture) / scale).ravel(), albedo.prior(x[:k]), x[k:]])

    def cost(x: jax.Array) -> jax.Array:
        return jnp.sum(residuals(x) ** 2)

    def step(state: tuple, _: None) -> tuple:
        x, damping = state
        jacobian, r = jax.jacfwd(residuals)(x), residuals(x)
        normal = jacobian.T @ jacobian
        new = x - jnp.linalg.solve(normal + damping * jnp.diag(jnp.diag(normal)), jacobian.T @ r)
        new = new.at[:k].set(jnp.clip(new[:k], *albedo.bounds()))
        better = cost(new) < cost(x)
        return (jnp.where(better, new, x), jnp.where(better, damping / 3, damping * 4)), None

    (x, _), _ = jax.lax.scan(step, (jnp.zeros(k + 27), jnp.asarray(1e-2)), None, length=steps)
    return x


def errors(albedo: BiophysicalAlbedo, normals: jax.Array, truth: jax.Array, found: jax.Array) -> jax.Array:
    """Relative RMS errors of albedo and light, both up to one scale, light without its scale, and the log bias of albedo's brightness."""
    k = albedo.n_codes
    a, b = albedo.decode(truth[:k]), albedo.decode(found[:k])
    p, q = (diffuse_shading(normals, light_from_code(x[k:])) for x in (truth, found))

    def relative(u: jax.Array, v: jax.Array) -> jax.Array:
        return jnp.sqrt(jnp.mean((v - u) ** 2) / jnp.mean(u**2))

    scaled = relative(a, b * jnp.sum(a * b) / jnp.sum(b * b)), relative(p, q * jnp.sum(p * q) / jnp.sum(q * q))
    shown = relative(a * p, b * q)
    return jnp.stack([relative(a, b), relative(p, q), *scaled, shown, jnp.log(b.mean() / a.mean())])


def measure(
    trials: int = 16,
    independent: float = 100.0,
    camera: float = 0.0,
    levels: tuple[float, ...] = LEVELS,
    seed: int = 0,
    stride: int = 2,
    steps: int = 60,
) -> np.ndarray:
    """Errors (levels, trials, 6) of fits; ``independent``: as how many independent numbers the residuals of a picture count;
    ``camera``: spread of log gains per colour channel that no part of the model knows; ``stride``: use every n-th point."""
    uv, normal = (x[::stride] for x in skin_points())
    dtype = jnp.zeros(()).dtype
    albedo = default_albedo(512).at(jnp.asarray(uv, jnp.float32)).astype(dtype)
    normals = jnp.asarray(normal, dtype)
    rng = np.random.default_rng(seed)
    codes = rng.standard_normal(((trials + 1) // 2, albedo.n_codes + 27)).clip(-2.5, 2.5)
    codes = np.concatenate([codes, -codes])[:trials]  # in pairs, so that no direction is favoured by chance
    noise = rng.standard_normal((trials, len(uv), 3))
    gains = rng.standard_normal(((trials + 1) // 2, 3))
    gains = np.exp(camera * np.concatenate([gains, -gains])[:trials])

    @jax.jit
    def one(code: jax.Array, noise: jax.Array, gain: jax.Array) -> jax.Array:
        picture = albedo.decode(code[: albedo.n_codes]) * (
            diffuse_shading(normals, light_from_code(code[albedo.n_codes :]))
        )
        picture = picture * gain + NOISE * jnp.median(picture.mean(1)) * noise
        return errors(albedo, normals, code, fit(albedo, normals, picture, independent, steps))

    result = np.zeros((len(levels), trials, 6))
    for i, level in enumerate(levels):
        for j in range(trials):
            code = codes[j].copy()
            code[0] = level
            result[i, j] = one(jnp.asarray(code, dtype), jnp.asarray(noise[j], dtype), jnp.asarray(gains[j], dtype))
    return result


if __name__ == "__main__":
    # Along the valley of equal products the cost changes by less than float32 resolves.
    jax.config.update("jax_enable_x64", True)
    for independent, camera in ((100.0, 0.0), (100.0, 0.05), (1000.0, 0.0)):
        found = measure(int(sys.argv[1]) if len(sys.argv) > 1 else 16, independent, camera)
        print(f"residuals count as {independent:.0f}, camera {camera}; * up to one scale")
        print("melanin   albedo  light  albedo*  light*  picture   log bias")
        for level, row in zip(LEVELS, found):
            print(f"{level:7.1f} " + "  ".join(f"{v:6.3f}" for v in row.mean(0)))
        means = found.mean(1)[:, :4]
        print("largest / smallest over the levels:", (means.max(0) / means.min(0)).round(2))
