"""A batch over several devices: four simulated ones, in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from toy import write_toy

import fitjax as fj
from fitjax.errors import FitError
from fitjax.fit.devices import padded

_CHILD = """
import sys
import jax, numpy as np
jax.config.update("jax_compilation_cache_dir", sys.argv[2])
import fitjax as fj
from fitjax.model.basis_file import read_basis
from fitjax.model.load import linear_model
from scenes import scene
from fitjax.fit.devices import padded, run_on_devices
model = linear_model(read_basis(sys.argv[1]))
devices = jax.local_devices()
assert len(devices) == 4
rng = np.random.default_rng(0)
seen = [scene(model, rng, noise=1.0)[1] for _ in range(7)]
stages = [fj.Stage({"pose": 1.0, "identity": 1.0, "expression": 1.0}, fj.LevenbergMarquardt(max_steps=8))]
start = {"identity": np.random.default_rng(1).normal(size=(7, model.n_identity)).astype(np.float32)}

def fit(faces, devices):
    begin = jax.tree.map(lambda x: x[faces], start)
    solutions = fj.fit_batch(seen[faces], model=model, stages=stages, start=begin, devices=devices)
    assert all(s.model is model for s in solutions)
    return [np.concatenate([np.ravel(x) for x in jax.tree.leaves(s.params)] + list(s.history["stage"].values())) for s in solutions]

every = fit(slice(None), devices)  # two on each, the last one twice
one = fit(slice(0, 2), devices[:1])
again = fit(slice(2, 4), devices[:1])
assert len(every) == 7 and np.abs(every[0][:20] - every[1][:20]).max() > 0.01
for a, b in zip(every, [*one, *again]):
    np.testing.assert_array_equal(a, b)
stacked, begin = padded((fj.stack_observations(seen), start), 4)
placed = run_on_devices(model, stacked, fj.default_losses(stacked), stages, begin, True, devices)
for leaf in jax.tree.leaves(placed.params):
    assert sorted(s.index[0].start for s in leaf.addressable_shards) == [0, 2, 4, 6] and len({s.device for s in leaf.addressable_shards}) == 4
print("same")
"""


def test_four_devices_give_what_one_gives(tmp_path, pytestconfig):
    """Bit for bit, at the same number of faces per device."""
    toy = write_toy(tmp_path / "toy.safetensors")
    here = Path(__file__).parent
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "PYTHONPATH": f"{here}:{here.parent}"}
    cache = str(pytestconfig.cache.mkdir("jax_programs"))
    done = subprocess.run([sys.executable, "-c", _CHILD, str(toy), cache], env=environment, capture_output=True, text=True, timeout=500)
    assert done.stdout.strip() == "same", done.stderr[-3000:]


def test_batches_are_filled_up_with_their_last_face():
    batch = {"a": np.arange(5), "b": np.arange(10).reshape(5, 2)}
    filled = padded(batch, 4)
    assert filled["a"].tolist() == [0, 1, 2, 3, 4, 4, 4, 4] and filled["b"].shape == (8, 2) and filled["b"][7].tolist() == [8, 9]
    assert padded(batch, 5) is batch


def test_no_devices_is_an_error():
    observation = fj.make_observation({"aflw68": np.random.default_rng(0).uniform(0, 100, (68, 2))}, fj.make_camera(100, 100))
    with pytest.raises(FitError, match="devices: expected at least one"):
        fj.fit_batch([observation], devices=[])
    assert len(jax.local_devices()) == 1
