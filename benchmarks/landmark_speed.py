"""How long a landmark fit takes, through the public API, next to optimistix and eos in the same run on the same faces.

Everything is warm: compiled, landmarks in memory. A fit starts in closed form and ends when its solver says so. Peers take turns with
fitjax, so that other work on the machine hits all alike; medians and their ratios are what to read.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

import fitjax as fj
from benchmarks import peer_optimistix
from benchmarks.faces import detected478, faces68, observe68
from benchmarks.peer_eos import Eos
from benchmarks.report import Report, Table, Target
from benchmarks.shared_data import Unavailable
from benchmarks.timing import take_turns
from fitjax.evaluate.nme import nme
from fitjax.model.linear import LinearModel

SET = "aflw68_original"
BATCHES = (1, 8, 16, 32, 64, 128)
OWN, OWN_UNBOUNDED = "fitjax", "fitjax, no bounds"
OPTIMISTIX, OPTIMISTIX_QR = "optimistix LM, Cholesky", "optimistix LM, QR (its default)"
CONTOUR_OWN = "fitjax, contours"
DENSE_OWN = "fitjax, 478 points"
EOS, EOS_PLAIN = "eos, contours", "eos, no contours"


def objective(solution: fj.Solution) -> float:
    return sum(solution.costs().values())


def _one_face(
    report: Report,
    model: LinearModel,
    points: np.ndarray,
    peer: peer_optimistix.Peer | None,
    eos: Eos | None,
    rounds: int,
) -> dict[str, float]:
    """One face at a time; returns the median seconds per contender."""
    free = peer_optimistix.unbounded(model)
    marks, outlines = observe68(points, SET), observe68(points, "ibug68")
    losses = fj.default_losses(marks[0])
    n = len(points)
    contenders: dict[str, Callable[[int], Any]] = {
        OWN: lambda k: fj.fit(marks[k % n], model=model, throw=False),
        OWN_UNBOUNDED: lambda k: fj.fit(marks[k % n], model=free, throw=False),
        CONTOUR_OWN: lambda k: fj.fit(outlines[k % n], model=model, throw=False),
    }
    reached: dict[str, tuple[Any, Any]] = {}
    for name in (OWN, OWN_UNBOUNDED, CONTOUR_OWN):
        fits = [contenders[name](k) for k in range(n)]
        reached[name] = np.mean([objective(s) for s in fits]), np.mean([sum(s.steps.values()) for s in fits])
    parameters = model.n_identity + model.n_expression + 6
    sizes = dict.fromkeys((OWN, OWN_UNBOUNDED, CONTOUR_OWN, OPTIMISTIX, OPTIMISTIX_QR), (parameters, 68))
    try:
        dense, what = detected478()
        contenders[DENSE_OWN] = lambda k: fj.fit(dense[k % len(dense)], model=model, throw=False)
        fits = [contenders[DENSE_OWN](k) for k in range(len(dense))]
        reached[DENSE_OWN] = np.mean([objective(s) for s in fits]), np.mean([sum(s.steps.values()) for s in fits])
        sizes[DENSE_OWN] = (parameters, 478)
        report.notes.append(f"478 points: {what}.")
    except Unavailable as error:
        report.skipped.append(str(error))
    if peer is not None:
        qr = peer_optimistix.build(peer.tolerance, "qr")
        for name, solver in ((OPTIMISTIX, peer), (OPTIMISTIX_QR, qr)):
            results = [solver.single(free, o, losses) for o in marks]
            reached[name] = np.mean([float(r[0]) for r in results]), np.mean([float(r[1]) for r in results])
        contenders[OPTIMISTIX] = lambda k: jax.block_until_ready(peer.single(free, marks[k % n], losses))
        contenders[OPTIMISTIX_QR] = lambda k: jax.block_until_ready(qr.single(free, marks[k % n], losses))
    if eos is not None:
        prepared = [eos.landmarks(p) for p in points]
        contenders[EOS] = lambda k: eos.fit(prepared[k % n], contours=True)
        contenders[EOS_PLAIN] = lambda k: eos.fit(prepared[k % n], contours=False)
        sizes[EOS], sizes[EOS_PLAIN] = (eos.parameters + 6, 68), (eos.parameters + 6, len(eos.fixed))
    seconds = take_turns(contenders, rounds)
    median = {name: float(np.median(values)) for name, values in seconds.items()}
    rows = [
        [name, *sizes[name], reached.get(name, (None, None))[1], reached.get(name, (None, None))[0], 1e3 * median[name]]
        + [float(1e3 * np.percentile(seconds[name], q)) for q in (10, 90)]
        for name in median
    ]
    columns = ["one face, warm", "parameters", "points", "steps", "mean objective", "median ms", "10 %", "90 %"]
    report.tables.append(Table("One face at a time", columns, rows))
    return median


def _fit_batch(model: LinearModel, stack: fj.Observation, _: int) -> None:
    fj.fit_batch(stack, model=model)


def _peer_batch(
    peer: peer_optimistix.Peer, model: LinearModel, stack: fj.Observation, losses: dict[str, fj.Loss], _: int
) -> None:
    jax.block_until_ready(peer.batch(model, stack, losses))


def _batches(
    report: Report,
    model: LinearModel,
    points: np.ndarray,
    peer: peer_optimistix.Peer | None,
    sizes: list[int],
    rounds: int,
) -> tuple[dict[int, float], dict[int, float]]:
    """Batches; returns median seconds per face by batch size: fitjax with its bounds, and the peer."""
    free = peer_optimistix.unbounded(model)
    stacks = {b: fj.stack_observations(observe68(points[np.arange(b) % len(points)], SET)) for b in sizes}
    losses = fj.default_losses(stacks[sizes[0]])
    contenders: dict[str, Callable[[int], Any]] = {}
    for b, stack in stacks.items():
        contenders[f"{OWN} {b}"] = partial(_fit_batch, model, stack)
        contenders[f"{OWN_UNBOUNDED} {b}"] = partial(_fit_batch, free, stack)
        if peer is not None:
            contenders[f"{OPTIMISTIX} {b}"] = partial(_peer_batch, peer, free, stack, losses)
    seconds = take_turns(contenders, rounds)
    per_face = {name: float(np.median(v)) / int(name.split()[-1]) for name, v in seconds.items()}
    rows: list[list[Any]] = []
    for b in sizes:
        own, same = per_face[f"{OWN} {b}"], per_face[f"{OWN_UNBOUNDED} {b}"]
        other = per_face.get(f"{OPTIMISTIX} {b}")
        rows.append(
            [b, 1 / own, 1 / same, None if other is None else 1 / other, None if other is None else other / same]
        )
    columns = [
        "batch",
        f"{OWN}, faces/s",
        f"{OWN_UNBOUNDED}, faces/s",
        f"{OPTIMISTIX}, faces/s",
        "ratio, no bounds on either side",
    ]
    report.tables.append(Table("Batches of 68-point faces, through `fj.fit_batch` and `jax.vmap`", columns, rows))
    return {b: per_face[f"{OWN} {b}"] for b in sizes}, {
        b: per_face[f"{OPTIMISTIX} {b}"] for b in sizes if peer is not None
    }


def _eos_error(eos: Eos, model: LinearModel, points: np.ndarray) -> list[list[Any]]:
    """Mean NME at the points that eos holds fixed, for orientation: the models differ."""
    ids = eos.fixed[:, 0]
    rows: list[list[Any]] = []
    for name, contours in ((EOS, True), (EOS_PLAIN, False)):
        found = points.copy()
        for face, p in zip(found, points):
            face[ids] = eos.project(*eos.fit(eos.landmarks(p), contours))
        rows.append([name, float(nme(found, points, only=ids).mean())])
    fits = fj.fit_batch(observe68(points, SET), model=model)
    rows.append([OWN, float(nme(np.stack([s.landmarks(SET) for s in fits]), points, only=ids).mean())])
    return rows


def run(quick: bool = False) -> Report:
    """The benchmark."""
    report = Report("speed", "Landmark fitting speed")
    model = fj.load_basis()
    faces = 8 if quick else 64
    points, source = faces68(model, faces)
    sizes = [1, 8] if quick else list(BATCHES)
    peer, eos = None, None
    try:
        free, some = peer_optimistix.unbounded(model), fj.stack_observations(observe68(points[:16], SET))
        goal = np.array([objective(s) for s in fj.fit_batch(some, model=free)])
        peer = peer_optimistix.tuned(free, some, fj.default_losses(some), goal)
        report.notes.append(
            f"optimistix gets the same residuals, start and parametrisation, and the loosest tolerance ({peer.tolerance:g}) that brings its "
            "mean objective within 1e-4 of fitjax's without bounds; it has no bounds, so ratios compare solves without them."
        )
    except Unavailable as error:
        report.skipped.append(str(error))
    try:
        eos = Eos()
        report.notes.append(
            f"eos fits its own model ({eos.parameters} coefficients and a pose, five alternations) to the same points; the objectives do "
            "not compare, the table of its error is for orientation."
        )
    except Unavailable as error:
        report.skipped.append(str(error))
    report.notes.append(f"68 points: {source}.")
    one = _one_face(report, model, points, peer, eos, 8 if quick else 96)
    batch, peer_batch = _batches(report, model, points, peer, sizes, 2 if quick else 9)
    if eos is not None:
        report.tables.append(
            Table("Mean NME % at the points that eos fixes", ["", "NME %"], _eos_error(eos, model, points[:32]))
        )
    best = min(batch.values())
    # The peer at its best: one by one or any batch size.
    fastest_peer = min([*peer_batch.values(), one[OPTIMISTIX]]) if peer is not None else None
    fastest_qr = one.get(OPTIMISTIX_QR)
    report.targets += [
        Target("one face, 478 points", 10, 1e3 * one[DENSE_OWN] if DENSE_OWN in one else None, "ms"),
        Target("one face, 68 points", 2.5, 1e3 * one[OWN], "ms"),
        Target("batch, 68 points, best size", 600, 1 / best, "faces/s", at_least=True),
        Target(
            "per face in a batch against optimistix, Cholesky, at its best",
            10,
            fastest_peer and fastest_peer / best,
            "×",
            at_least=True,
        ),
        Target(
            "the same against its default linear solver, one by one",
            10,
            fastest_qr and fastest_qr / best,
            "×",
            at_least=True,
        ),
        Target(
            "per face in a batch against eos with contours",
            8,
            one[EOS] / best if EOS in one else None,
            "×",
            at_least=True,
        ),
    ]
    report.facts.update(
        seconds_one_face=one,
        seconds_per_face_in_batch=batch,
        seconds_per_face_optimistix=peer_batch,
        faces=faces,
        source=source,
    )
    return report
