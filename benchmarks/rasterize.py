"""Rasterising and the photometric loss, next to ray casting on the CPU: ``python -m benchmarks.rasterize [--quick]``.

Everything is warm; contenders take turns, so that other work on the machine hits all alike. Medians and their ratios are what to read.
Open3D and Mitsuba are optional: ``pip install open3d mitsuba`` (Mitsuba's CPU variant needs an LLVM library, DRJIT_LIBLLVM_PATH).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fitjax as fj
from benchmarks.report import Report, Table, Target, markdown_table, target_rows
from benchmarks.timing import take_turns
from fitjax.render.interpolate import fragments, interpolate
from fitjax.render.lighting import ambient_light, shade
from fitjax.render.raster_sums import sum_over_covered
from fitjax.render.rasterize import rasterize
from fitjax.render.reference import rasterize_reference
from fitjax.render.visibility import vertex_visibility

DISTANCE, WIDTH_METRES = 0.7, 0.3


def meshes() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Points (V, 3) in head space and triangles: the default mesh, and one of 22 k triangles cut from it."""
    model = fj.load_basis(level=1)
    points, triangles = np.asarray(model.mean, np.float64), np.asarray(model.triangles)
    # The front of the head, by distance from the tip of the nose: what a typical face model covers, at the same density.
    centre = points[triangles].mean(1)
    tip = points[points[:, 2].argmax()]
    front = np.sort(np.argsort(((centre - tip) ** 2).sum(1))[:22_288])
    return {"default": (points, triangles), "22 k": (points, triangles[front])}


def project(points: np.ndarray, size: int, yaw: float) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and depth, and camera coordinates, of a head that fills the image's width."""
    points = points - (points.min(0) + points.max(0)) / 2
    c, s = np.cos(np.radians(yaw)), np.sin(np.radians(yaw))
    camera = points @ np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]).T * [1, -1, -1] + [0, 0, DISTANCE]
    pixels = camera[:, :2] / camera[:, 2:] * size * DISTANCE / WIDTH_METRES + (size - 1) / 2
    return np.concatenate([pixels, camera[:, 2:]], 1).astype(np.float32), camera.astype(np.float32)


def rays(size: int) -> np.ndarray:
    """Directions (size, size, 3) through pixel centres."""
    row, column = np.mgrid[:size, :size]
    focal = size * DISTANCE / WIDTH_METRES
    return np.stack(
        [(column - (size - 1) / 2) / focal, (row - (size - 1) / 2) / focal, np.ones((size, size))], -1
    ).astype(np.float32)


def open3d_caster(camera: list[np.ndarray], triangles: np.ndarray, size: int) -> Callable[[int], Any]:
    """Build the scene of each pose and cast, as a fit would have to."""
    import open3d as o3d

    directions = np.concatenate([np.zeros((size, size, 3), np.float32), rays(size)], -1)
    indices = o3d.core.Tensor(triangles.astype(np.uint32))

    def cast(index: int) -> Any:
        scene = o3d.t.geometry.RaycastingScene()
        scene.add_triangles(o3d.core.Tensor(camera[index % len(camera)]), indices)
        return scene.cast_rays(o3d.core.Tensor(directions))["primitive_ids"].numpy()

    return cast


def mitsuba_caster(camera: list[np.ndarray], triangles: np.ndarray, size: int) -> Callable[[int], Any]:
    """Move the vertices of one scene and cast, which is its documented way."""
    import mitsuba as mi

    mi.set_variant("llvm_ad_rgb")
    import drjit as dr

    mesh = mi.Mesh("head", len(camera[0]), len(triangles))
    parameters = mi.traverse(mesh)
    parameters["vertex_positions"] = camera[0].ravel()
    parameters["faces"] = triangles.astype(np.uint32).ravel()
    parameters.update()
    scene = mi.load_dict({"type": "scene", "head": mesh})
    parameters = mi.traverse(scene)
    key = next(k for k in parameters.keys() if k.endswith("vertex_positions"))  # noqa: SIM118
    direction = rays(size).reshape(-1, 3)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    ray = mi.Ray3f(mi.Point3f(0, 0, 0), mi.Vector3f(*(np.ascontiguousarray(direction[:, k]) for k in range(3))))

    def cast(index: int) -> Any:
        parameters[key] = camera[index % len(camera)].ravel()
        parameters.update()
        found = scene.ray_intersect_preliminary(ray)
        index_image = dr.select(found.is_valid(), mi.Int32(found.prim_index), -1)
        return np.array(index_image).reshape(size, size)

    return cast


def ids_function(size: int) -> Callable[..., jax.Array]:
    return jax.jit(lambda v, t: rasterize(v, t, size, size))


def loss_function(size: int, lit: bool) -> Callable[..., Any]:
    """Ids, colours (and light), L1 over covered pixels; gradients in positions, colours and light."""

    def loss(
        vertices: jax.Array, colours: jax.Array, light: jax.Array, triangles: jax.Array, photo: jax.Array
    ) -> jax.Array:
        ids = rasterize(vertices, triangles, size, size)

        def at(pixels: Any) -> jax.Array:
            where = fragments(vertices, triangles, ids, pixels)
            shown = interpolate(colours, triangles, where)
            if lit:
                shown = shade(shown, jnp.broadcast_to(jnp.array([0.0, 0.0, -1.0]), shown.shape), light)
            difference = jnp.abs(shown - photo.reshape(-1, 3)[pixels.pixel])
            return jnp.sum(jnp.where(where.covered[:, None], difference, 0))

        return sum_over_covered(at, ids) / jnp.maximum(jnp.sum(ids >= 0), 1)

    return jax.jit(jax.value_and_grad(loss, (0, 1, 2)))


def run(quick: bool) -> Report:
    rounds = 7 if quick else 60
    report = Report("rasterize", "Rasterising")
    yaws = (0.0, 20.0, 40.0, 60.0)
    rng = np.random.default_rng(0)
    table: list[list[Any]] = []
    wrong = 0
    for name, (points, triangles) in meshes().items():
        t = jnp.asarray(triangles)
        for size in (224, 512):
            poses = [project(points, size, yaw) for yaw in yaws]
            images = [jnp.asarray(p[0]) for p in poses]
            ids, loss, lit = ids_function(size), loss_function(size, False), loss_function(size, True)
            began = time.perf_counter()
            jax.block_until_ready(ids(images[0], t))
            compile_seconds = time.perf_counter() - began
            for image in images:
                expected = rasterize_reference(np.asarray(image), triangles, size, size, snap=True).triangle_id
                wrong += np.count_nonzero(np.asarray(ids(image, t)) != expected)
            batch = jnp.stack([images[k % 4] for k in range(8)])
            batched = jax.jit(jax.vmap(lambda v, f: rasterize(v, f, size, size), (0, None)))  # noqa: B023
            colours = jnp.asarray(rng.random(points.shape), jnp.float32)
            photo = jnp.asarray(rng.random((size, size, 3)), jnp.float32)
            light = ambient_light(jnp.ones(3))
            visible = jax.jit(vertex_visibility)
            contenders: dict[str, Callable[[int], Any]] = {
                "ids": lambda k: jax.block_until_ready(ids(images[k % 4], t)),  # noqa: B023
                "8 calls": lambda k: [jax.block_until_ready(ids(images[i % 4], t)) for i in range(8)],  # noqa: B023
                "batch of 8": lambda k: jax.block_until_ready(batched(batch, t)),  # noqa: B023
                "loss": lambda k: jax.block_until_ready(loss(images[k % 4], colours, light, t, photo)),  # noqa: B023
                "lit loss": lambda k: jax.block_until_ready(lit(images[k % 4], colours, light, t, photo)),  # noqa: B023
                "visibility": lambda k: jax.block_until_ready(visible(images[k % 4], t)),  # noqa: B023
            }
            # Peers in turns of their own: their threads go on spinning for a while, which would be counted as ours.
            casters = {"ids": contenders["ids"]}
            for peer, make in (("Open3D", open3d_caster), ("Mitsuba", mitsuba_caster)):
                try:
                    caster = make([p[1] for p in poses], triangles, size)
                    agree = np.mean(np.asarray(caster(0)).astype(np.int32) == np.asarray(ids(images[0], t)))
                    casters[peer] = caster
                    report.facts[f"{peer} {name} {size} pixels with the same id (no culling there)"] = float(agree)
                except Exception as error:  # whatever a peer needs and does not find
                    report.skipped.append(
                        f"{peer}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
                    )
            seconds = {k: float(np.median(v)) for k, v in take_turns(contenders, rounds).items()}
            together = {k: float(np.median(v)) for k, v in take_turns(casters, max(5, rounds // 2)).items()}
            ratio = {
                peer: together[peer] / together["ids"] if peer in together else None for peer in ("Open3D", "Mitsuba")
            }
            seconds = {**together, **seconds}
            per_face = seconds["batch of 8"] / seconds["8 calls"]
            milliseconds = [
                1e3 * seconds[k] if k in seconds else None
                for k in ("ids", "loss", "lit loss", "visibility", "Open3D", "Mitsuba")
            ]
            table.append(
                [
                    f"{name} ({len(triangles):,}), {size}²",
                    *milliseconds[:4],
                    per_face,
                    *milliseconds[4:],
                    compile_seconds,
                ]
            )
            if name == "22 k":
                limit = 2.5 if size == 224 else 4.0
                report.targets.append(Target(f"ids, 22 k triangles, {size}²", limit, milliseconds[0], "ms"))
            if size == 224:
                report.targets += [
                    Target(f"per face at batch 8, {name}, {size}²", 1.2, per_face, "× a single one"),
                    Target(f"loss, forward and backward, {name}, {size}²", 4.5, milliseconds[1], "ms"),
                    Target(f"Open3D / fitjax, {name}, {size}²", 2.0, ratio["Open3D"], "×", at_least=True),
                    Target(f"Mitsuba / fitjax, {name}, {size}²", 6.0, ratio["Mitsuba"], "×", at_least=True),
                ]
    report.targets.insert(
        0, Target("wrong pixels against the NumPy reference, all rows, four yaws", 0, wrong, "pixels")
    )
    columns = [
        "mesh, image",
        "ids",
        "L1 loss + gradient",
        "the same with light",
        "vertex visibility",
        "batch of 8: per face / single",
        "Open3D",
        "Mitsuba",
        "compile ids, s",
    ]
    note = f"Milliseconds, medians of {rounds} rounds in turns; yaw 0, 20, 40, 60 degrees."
    report.tables.append(Table("Times", columns, table, note))
    return report


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rasterize", description="Speed of rasterising, next to peers."
    )
    parser.add_argument("--quick", action="store_true", help="few repeats: shows that it works, not what it is worth")
    report = run(parser.parse_args(arguments).quick)
    print(
        f"## {report.title}\n\n{markdown_table(['target', 'asked for', 'measured', 'met'], target_rows(report.targets))}\n"
    )
    for table in report.tables:
        print(f"{markdown_table(table.columns, table.rows)}\n\n{table.note}\n")
    for what, value in report.facts.items():
        print(f"- {what}: {value:.4f}")
    for skipped in sorted(set(report.skipped)):
        print(f"- Left out: {skipped}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
