"""Speed of the part re-projection distance loss next to PyTorch: ``python -m benchmarks --only prdl_speed``.

Eight parts of 1,536 points, 1,024 anchors, forward and backward, float32; and a whole first-order step of landmarks and parts. PyTorch is no
dependency: it is used where this Python can import it, or where ``FITJAX_TORCH_PYTHON`` names a Python that can (a separate environment with torch
and numpy).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fitjax as fj
from benchmarks.report import Report, Table, Target
from benchmarks.timing import take_turns
from fitjax.geometry.rotation import rotation_from_aflw2000
from fitjax.losses.part_kernel import part_statistics
from fitjax.model.params import retract, zero_tangent
from fitjax.prediction import predict
from fitjax.solve.objective import Problem, costs

PARTS, ANCHORS, POINTS = 8, 1024, 1536

#: ``cdist`` computes |a|² + |b|² − 2ab from 25 points on unless told not to.
PEERS = {
    "torch eager, cdist": "eager",
    "torch eager, cdist without matrix products": "exact",
    "torch.compile": "compiled",
}

#: What the peer's process runs: one call per line that it is sent.
_PEER = """
import sys
import numpy as np
import torch

data = np.load(sys.argv[1])
anchors, points, target = (torch.from_numpy(data[k]) for k in ("anchors", "points", "target"))
points.requires_grad_()
torch.set_num_threads(int(sys.argv[2]))


def loss(points, mode="use_mm_for_euclid_dist_if_necessary"):
    distance = torch.cdist(anchors.expand(len(points), *anchors.shape), points, compute_mode=mode)
    found = torch.stack([distance.min(-1).values, distance.max(-1).values, distance.mean(-1)], 1)
    return ((found - target) ** 2).mean()


def exact(points):
    return loss(points, "donot_use_mm_for_euclid_dist")


functions = {"eager": loss, "exact": exact, "compiled": torch.compile(loss)}
print("ready", torch.__version__, flush=True)
for line in sys.stdin:
    value = functions[line.strip()](points)
    (gradient,) = torch.autograd.grad(value, points)
    print(float(value), float(gradient.norm()), flush=True)
"""


class Peer:
    """PyTorch in a process of its own."""

    def __init__(self, arrays: dict[str, np.ndarray], folder: Path):
        python = os.environ.get("FITJAX_TORCH_PYTHON", sys.executable)
        np.savez(folder / "arrays.npz", **arrays)  # type: ignore[arg-type]
        (folder / "peer.py").write_text(_PEER)
        # Threads that wait spinning would be counted as ours.
        self._process = subprocess.Popen(
            [python, str(folder / "peer.py"), str(folder / "arrays.npz"), str(os.cpu_count())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_WAIT_POLICY": "passive"},
        )
        said = self._line()
        if not said.startswith("ready"):
            raise RuntimeError("torch cannot be imported; FITJAX_TORCH_PYTHON may name a Python that can")
        self.version = said.split()[1]

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def call(self, which: str) -> tuple[float, float]:
        """Loss and norm of its gradient."""
        assert self._process.stdin is not None
        self._process.stdin.write(which + "\n")
        self._process.stdin.flush()
        value, norm = self._line().split()
        return float(value), float(norm)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def kernel_arrays() -> dict[str, np.ndarray]:
    """Anchors on a grid, parts as discs of different sizes, targets as their statistics a few hundredths away; unit: the face size."""
    rng = np.random.default_rng(0)
    line = np.linspace(-0.75, 0.75, 32)
    anchors = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2).astype(np.float32)
    radius, angle = np.sqrt(rng.random((PARTS, POINTS))), 2 * np.pi * rng.random((PARTS, POINTS))
    size = np.linspace(0.05, 0.5, PARTS)[:, None]
    middle = rng.uniform(-0.2, 0.2, (PARTS, 1, 2))
    points = (middle + np.stack([size * radius * np.cos(angle), size * radius * np.sin(angle)], -1)).astype(np.float32)
    target = np.asarray(part_statistics(anchors, points + 0.03, np.ones(points.shape[:2])))
    return {"anchors": anchors, "points": points, "target": target}


#: Registers of 512 bits, which PyTorch uses where the processor has them and XLA only when told to.
WIDE = {"xla_cpu_prefer_vector_width": 512}


def kernel(arrays: dict[str, np.ndarray], options: dict[str, Any] | None = None) -> tuple[Callable[[], tuple[float, float]], float]:
    """A call of ours, and its temporary memory in MiB."""
    anchors, points, target = (jnp.asarray(arrays[k]) for k in ("anchors", "points", "target"))
    weight = jnp.ones(points.shape[:2])

    def loss(points: jax.Array, anchors: jax.Array, target: jax.Array) -> jax.Array:
        return jnp.mean((part_statistics(anchors, points, weight) - target) ** 2)

    compiled = jax.jit(jax.value_and_grad(loss)).lower(points, anchors, target).compile(options)

    def call() -> tuple[float, float]:
        value, gradient = compiled(points, anchors, target)
        return float(value), float(np.linalg.norm(np.asarray(gradient)))

    analysis: Any = compiled.memory_analysis()
    return call, analysis.temp_size_in_bytes / 2**20


def whole_step(stride: int) -> Callable[[], Any]:
    """Costs and gradient of 478 landmarks, eight parts and priors in all parameters of the default model."""
    model = fj.with_part_samples(fj.load_basis())
    rotation = jnp.asarray(rotation_from_aflw2000(jnp.radians(jnp.array([5.0, 15.0, 0.0]))), jnp.float32)
    params = {**model.init(), "pose": {"rotation": rotation, "translation": jnp.array([0.0, 0.0, 0.7], jnp.float32)}}
    camera = fj.make_camera(640, 480)
    anywhere = fj.make_observation({"mediapipe478": np.random.default_rng(0).uniform(0, 400, (478, 2))}, camera)
    points = predict(model, params, anywhere).pixels["mediapipe478"]
    observation = fj.with_parts(fj.make_observation({"mediapipe478": points}, camera), anchors=stride)
    losses = {**fj.default_losses(observation), "parts": fj.part_reprojection()}
    problem = Problem(model, observation, losses).refreeze(params)
    zero = zero_tangent(params, ("pose", "identity", "expression"))
    gradient = jax.jit(
        jax.value_and_grad(lambda step, problem, params: sum(costs(problem, retract(params, step)).values()))
    )
    return lambda: jax.block_until_ready(gradient(zero, problem, params))


def run(quick: bool) -> Report:
    report = Report("prdl_speed", "Part re-projection distance loss: speed")
    rounds = 5 if quick else 25
    arrays = kernel_arrays()
    ours, memory = kernel(arrays)
    wide, _ = kernel(arrays, WIDE)
    contenders: dict[str, Callable[[int], Any]] = {"fitjax": lambda _: ours(), "fitjax, 512 bits": lambda _: wide()}
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        peer = None
        try:
            peer = Peer(arrays, Path(folder))
            expected = ours()
            for name, which in PEERS.items():
                # The first call compiles. Both see the same data: values must agree before times mean anything.
                found = peer.call(which)
                report.facts[f"{name}: value and gradient norm over ours"] = [f / e for f, e in zip(found, expected)]
                contenders[name] = lambda _, which=which: peer.call(which)  # type: ignore[misc,union-attr]
            report.notes.append(f"PyTorch {peer.version}.")
        except (OSError, RuntimeError, ValueError) as error:
            report.skipped.append(f"torch: {error}")
        try:
            seconds = {k: float(np.median(v)) for k, v in take_turns(contenders, rounds, warm=True).items()}
        finally:
            if peer is not None:
                peer.close()
    steps = {
        f"whole step, {len(range(224 // stride)) ** 2} anchors": whole_step(stride)
        for stride in ((8,) if quick else (8, 4))
    }
    times = take_turns({k: (lambda _, f=f: f()) for k, f in steps.items()}, rounds)
    seconds |= {k: float(np.median(v)) for k, v in times.items()}
    asked = {"torch.compile": 15, "torch eager, cdist": 40}
    report.targets += [
        Target(f"{rival} / {which}", limit, seconds[rival] / seconds[which] if rival in seconds else None, "×", at_least=True)
        for which in ("fitjax", "fitjax, 512 bits")
        for rival, limit in asked.items()
    ]
    report.targets += [
        Target("temporary memory", 8, memory, "MiB"),
        Target(
            "a whole step with landmarks and parts, 784 anchors", 10, 1e3 * seconds["whole step, 784 anchors"], "ms"
        ),
    ]
    rows = [[k, 1e3 * v, v / seconds["fitjax"] if not k.startswith("whole") else None] for k, v in seconds.items()]
    note = f"{PARTS} parts × {ANCHORS} anchors × {POINTS} points, forward and backward, float32; medians of {rounds} rounds in turns, each warm."
    report.tables.append(Table("Times", ["what", "ms", "over fitjax"], rows, note))
    return report
