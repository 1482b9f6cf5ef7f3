"""Training a decoder on generated faces: the loss falls, a run that was killed continues to the same numbers, and the file that comes out decodes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from nonlinear_scenes import random_weights

import fitjax as fj
from fitjax.cli.main import UNUSABLE, main
from fitjax.errors import FitjaxError
from fitjax.model.load import is_nonlinear, load_basis
from fitjax.model.nonlinear import NonlinearModel, load_nonlinear
from fitjax.model.nonlinear_codec import decode_maps, encode_maps
from fitjax.model.nonlinear_conv_file import conv_network, conv_tensors
from fitjax.model.nonlinear_file import describe_nonlinear, write_nonlinear
from fitjax.networks.conv import fading
from fitjax.networks.lift import LiftDecoder, LiftScales
from fitjax.train.checkpoint import load_checkpoint, save_checkpoint
from fitjax.train.coefficients import Folding, components
from fitjax.train.conv import ConvSettings, map_faces, train_conv
from fitjax.train.conv import networks as conv_networks
from fitjax.train.conv_run import ConvRun, network_settings, train_conv_decoder
from fitjax.train.generator import generator_hash
from fitjax.train.lift import LiftSettings, advance, evaluate, feature_metric, modules, proxy_filter, start
from fitjax.train.local import local_components
from fitjax.train.more_faces import make_local, more_faces
from fitjax.train.run import DecoderSettings, make_faces, train_decoder

LIFT = LiftSettings(code_length=6, hidden=24, depth=2, steps=120, batch=32, warmup=10, rate=3e-3)
TINY = DecoderSettings(
    height=32, width=40, analysed=48, faces=192, rank=24, albedo=LIFT, shape=replace(LIFT, code_length=10, steps=40), interval=40
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder and rows of the metrics of a run without interruption."""
    folder = tmp_path_factory.mktemp("trained")
    path = train_decoder(TINY, folder, say=lambda text: None)
    assert path == folder / "model.safetensors"
    return folder, [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_loss_falls(trained):
    _, rows = trained
    albedo = [row for row in rows if row["network"] == "albedo"]
    assert [row["step"] for row in albedo] == [40, 80, 120]
    assert albedo[-1]["train_full"] < 0.9 * albedo[0]["train_full"]
    assert albedo[-1]["train_proxy"] < 0.9 * albedo[0]["train_proxy"]
    assert albedo[-1]["held_out_full"] < albedo[0]["held_out_full"]


def test_a_killed_run_continues_to_the_same_numbers(trained, tmp_path):
    """Stopped after the first interval, its checkpoint put back as if the next had been lost, run again: losses and weights as without a stop."""
    folder, rows = trained
    (tmp_path / "faces.safetensors").write_bytes((folder / "faces.safetensors").read_bytes())

    def stop(network: str, step: int, measured: dict[str, float]) -> bool:
        return step == 40

    def silent(text: str) -> None: ...

    assert train_decoder(TINY, tmp_path, progress=stop, say=silent) is None
    kept = (tmp_path / "albedo.checkpoint.safetensors").read_bytes()
    assert train_decoder(TINY, tmp_path, progress=lambda network, step, measured: step == 80, say=silent) is None
    (tmp_path / "albedo.checkpoint.safetensors").write_bytes(kept)  # what was done since was lost
    assert train_decoder(TINY, tmp_path, say=silent) is not None
    again = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["network"], row["step"]) for row in again] == [(row["network"], row["step"]) for row in rows]
    for first, second in zip(rows, again):
        for name in first.keys() - {"network", "step"}:
            assert abs(first[name] - second[name]) <= 1e-5 * abs(first[name]), (first, name)
    a, b = (safetensors.numpy.load_file(f / "model.safetensors") for f in (folder, tmp_path))
    for name in a:
        np.testing.assert_allclose(a[name].astype(float), b[name].astype(float), atol=2e-3, err_msg=name)


def test_the_file_decodes_as_the_components_do(trained):
    folder, _ = trained
    path = folder / "model.safetensors"
    assert is_nonlinear(path) and not is_nonlinear(folder / "faces.safetensors")
    model = load_nonlinear(path, 0, ("ibug68",))
    assert isinstance(model, NonlinearModel)
    faces = safetensors.numpy.load_file(folder / "faces.safetensors")
    np.testing.assert_allclose(model.albedo.mean.reshape(32, 40, 3), faces["mean"], atol=1e-5)
    scaled = [np.asarray(x).reshape(24, -1) * faces["sigma"][:, None] for x in (model.albedo.basis, faces["modes"])]
    assert np.abs(scaled[0] - scaled[1]).max() < 2 / 255 and np.sqrt(((scaled[0] - scaled[1]) ** 2).mean()) < 0.1 / 255
    face = jax.jit(lambda p: model.decode(p))(model.init())
    assert face.albedo.shape == face.proxy_albedo.shape == (256, 256, 3)
    assert float(jnp.abs(face.vertices - model.shape.mean).max()) < 2e-3
    # Another level is the same surface.
    assert fj.load_basis(str(path), 0, sample_sets=()).n_vertices == model.shape.n_vertices
    code = jnp.zeros(6).at[0].set(1.0)
    encoded = model.albedo.encode(model.albedo.decode(code))
    assert float(jnp.abs(encoded - code).max()) < 0.6


def test_another_seed_or_size_is_refused(trained):
    folder, _ = trained
    with pytest.raises(FitjaxError, match=r"seed was 0, is 3"):
        make_faces(replace(TINY, seed=3), folder)
    with pytest.raises(FitjaxError, match=r"albedo_rate was 0.003, is 0.1"):
        train_decoder(replace(TINY, albedo=replace(LIFT, rate=0.1)), folder, say=lambda text: None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 49}, "rank 49"),
        ({"albedo": replace(LIFT, code_length=30)}, "albedo code of 30"),
        ({"shape": replace(LIFT, steps=0)}, "shape steps"),
        ({"height": 3}, "height"),
    ],
)
def test_settings_that_cannot_work(tmp_path, change, message):
    with pytest.raises(FitjaxError, match=message):
        train_decoder(replace(TINY, **change), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_damaged_files_get_one_error(trained, tmp_path, capsys):
    folder, _ = trained
    whole = (folder / "model.safetensors").read_bytes()
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(fj.FitjaxError, match=r"bad\.safetensors"):
        load_nonlinear(bad)
    tensors = safetensors.numpy.load(whole)
    with safetensors.safe_open(folder / "model.safetensors", "np") as handle:
        metadata = handle.metadata()
    for changes, about, message in (
        ({"albedo.even": tensors["albedo.even"][:-40]}, {}, "packed maps"),
        ({"shape.to_modes": tensors["shape.to_modes"][:, :-3]}, {}, "shape.to_modes"),
        ({}, {"settings": metadata["settings"].replace('"basis_sha256": "', '"basis_sha256": "0')}, "another|trained for the basis"),
        ({}, {"settings": "{}"}, "field"),
    ):
        safetensors.numpy.save_file(tensors | changes, bad, metadata | about)
        with pytest.raises(fj.FitjaxError, match=message):
            load_nonlinear(bad)
    assert main(["train", "decoder", "-o", str(bad)]) == UNUSABLE
    assert "expected a folder" in capsys.readouterr().err


def test_checkpoints_give_back_what_they_were_given(tmp_path):
    state = {"a": jnp.arange(3.0), "b": (jnp.int32(4), [jnp.ones((2, 2))])}
    path = tmp_path / "one.checkpoint.safetensors"
    save_checkpoint(path, state, {"seed": 1})
    like = jax.tree.map(jnp.zeros_like, state)
    found = load_checkpoint(path, like, {"seed": 1})
    assert all(bool((x == y).all()) for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(state)))
    with pytest.raises(FitjaxError, match="seed was 1, is 2"):
        load_checkpoint(path, like, {"seed": 2})
    with pytest.raises(FitjaxError, match="found others"):
        load_checkpoint(path, {"a": jnp.zeros(3)}, {"seed": 1})


def test_packed_maps_come_back():
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:21, :18]
    maps = np.stack([np.sin(rows[..., None] / a + columns[..., None] * np.arange(3) / 9) for a in (3.0, 7.0)]).astype(np.float32)
    step = 1e-3
    back = decode_maps(encode_maps(maps, step), 2, 21, 18, step)
    # Rounding in an orthonormal transform: uniform within half a step, twice that for colour.
    assert np.sqrt(((back - maps) ** 2).mean()) < 2 * step / np.sqrt(12)
    assert len(encode_maps(maps, step)) < len(encode_maps(rng.normal(size=maps.shape), step)) / 2
    with pytest.raises(ValueError, match="expected 3 of"):
        decode_maps(encode_maps(maps, step), 3, 21, 18, step)


def test_components_of_folding_maps():
    """A few components made by hand, even and odd, are found again, with their spreads, and the folding keeps norms."""
    rng = np.random.default_rng(1)
    folding = Folding(6, 8, 4)
    maps = rng.normal(size=(3, 6, 8, 3))
    even, odd = folding.fold(jnp.asarray(maps))
    np.testing.assert_allclose(folding.unfold(even, odd), maps, atol=1e-6)
    assert float(jnp.sum(even**2) + jnp.sum(odd**2)) == pytest.approx((maps**2).sum(), rel=1e-5)
    weight = rng.uniform(0.5, 1.5, (6, 8))
    weight = (weight + weight[:, ::-1]) / 2
    symmetric = rng.normal(size=(6, 8, 3))
    symmetric[:4] += symmetric[:4, ::-1]
    anti = rng.normal(size=(6, 8, 3))
    anti[:4] -= anti[:4, ::-1]
    anti[4:] = 0
    codes = rng.normal(size=(200, 2)) * [3, 1]
    data = jnp.asarray(0.4 + np.einsum("nk,khwc->nhwc", codes, np.stack([symmetric, anti])), jnp.float32)
    found = components(lambda first, n: data[first : first + n], 200, 2, weight, folding)
    assert found.is_odd.tolist() == [False, True]
    for mode, made in zip(found.modes, (symmetric, anti)):
        norm = np.sqrt((weight[..., None] * made**2).sum())
        assert abs(abs((weight[..., None] * mode * made).sum()) / norm - 1) < 1e-3
    c = np.asarray(found.coefficients(data))
    back = found.mean + np.einsum("nk,khwc->nhwc", c, found.modes)
    assert np.abs(back - data).max() < 1e-3
    np.testing.assert_allclose(found.sigma, c.std(0), rtol=0.05)


def test_the_filter_solves_for_the_proxy():
    """Its result is where the derivative of the regularised distance vanishes."""
    rng = np.random.default_rng(2)
    modes = np.linalg.qr(rng.normal(size=(5 * 4 * 3, 4)))[0].T.reshape(4, 5, 4, 3)
    weight, is_odd = np.ones((5, 4)), np.array([False, True, False, True])
    c = rng.normal(size=4)

    def objective(p: np.ndarray) -> float:
        proxy = np.einsum("k,khwc->hwc", p, modes)
        padded = np.pad(proxy, ((1, 1), (1, 1), (0, 0)), mode="edge")
        around = (padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]) / 4
        return ((p - c) ** 2).sum() + 1.5 * ((around - proxy) ** 2).sum() + 0.7 * (2 * p[is_odd]) @ (2 * p[is_odd])

    p = c @ proxy_filter(modes, is_odd, weight, symmetry=0.7, smoothness=1.5)
    slopes = [objective(p + 1e-5 * d) - objective(p - 1e-5 * d) for d in np.eye(4)]
    assert np.abs(slopes).max() < 1e-9
    assert len(generator_hash()) == 64


@pytest.fixture(scope="module")
def waves():
    """Faces mixed from four pictures, their coefficients, and a tiny network for them."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:16, :16] / 16
    waves = np.stack([np.cos(np.pi * a * rows) * np.cos(np.pi * b * columns) for a, b in ((1, 0), (0, 2), (2, 0), (1, 2))])
    modes = waves[..., None] * rng.uniform(0.5, 1.0, (4, 1, 1, 3))
    modes *= 0.1 / np.sqrt((modes**2).mean((1, 2, 3), keepdims=True))
    faces = map_faces(np.full((16, 16, 3), 0.5), modes, np.full((16, 16), 1 / 256), np.ones(4))
    settings = ConvSettings(
        code_length=4, regions=((4, 4, 8, 8),), first=8, local_first=8, channels=(8, 6), local_channels=(6,), steps=60, batch=8, rate=1e-2
    )
    return settings, faces, rng.normal(size=(96, 4)).astype(np.float32)


def test_the_convolutional_decoder_learns_and_goes_on(waves, tmp_path):
    """Both heads come closer to the faces; a run that was killed after the first interval ends with the same numbers."""
    settings, faces, data = waves

    def train(folder, progress=None):
        files = folder / "conv_albedo.checkpoint.safetensors", folder / "metrics.jsonl"
        return train_conv(settings, faces, data[:64], data[64:], *files, {}, 20, progress)

    whole = train(tmp_path / "whole")
    rows = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [20, 40, 60]
    for name in ("train_full", "train_proxy", "held_out_full"):
        assert rows[-1][name] < 0.8 * rows[0][name], name
    stopped = train(tmp_path / "again", lambda name, step, measured: step == 20)
    assert int(stopped[2]) == 20
    again = train(tmp_path / "again")
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(again)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_the_convolutional_file_decodes_as_its_networks_do(tmp_path):
    """What is read back draws the maps of the networks that were written, and vertices are read off the shape's."""
    tiny = ConvSettings(code_length=5, first=4, local_first=4, channels=(6, 4), local_channels=(4,))
    run = ConvRun(TINY, albedo=tiny, shape=tiny)
    basis = load_basis(level=0, sample_sets=())
    networks = network_settings(run, basis)
    assert [len(networks[part].regions) for part in ("albedo", "shape")] == [3, 4] and networks["shape"].symmetry == 0
    mean = np.random.default_rng(0).uniform(0.3, 0.7, (32, 40, 3))
    tensors = {"albedo.mean": np.round(mean * 65535).astype(np.uint16)}
    settings = {"basis": "embedded", "basis_sha256": basis.basis_sha256}
    weights = {}
    for seed, (part, network) in enumerate(networks.items()):
        weights[part] = random_weights(conv_networks(network, 32, 40)[0], seed, jnp.zeros((1, 5)))
        tensors |= conv_tensors(weights[part], part)
        settings[part] = conv_network(network, 32, 40)
    path = tmp_path / "model_conv.safetensors"
    write_nonlinear(path, tensors, settings, {}, kind="conv")
    assert is_nonlinear(path)
    model = load_nonlinear(path, 0, ("ibug68",))
    code = jnp.linspace(-1, 1, 5)

    @jax.jit
    def both(model):
        drawn = [conv_networks(networks[part], 32, 40)[0].apply(weights[part], code[None])[0][0] for part in ("albedo", "shape")]
        face = model.decode(model.init() | {"identity": code, "albedo": code})
        return face, model.albedo.values(code)[0], drawn

    face, albedo, drawn = both(model)
    # Weights are rounded to half precision in the file.
    np.testing.assert_allclose(albedo, mean + 0.6 * np.asarray(drawn[0]), atol=3e-3)
    expected = np.asarray(model.shape.mean) + np.asarray(model.shape._at_vertices(jnp.asarray(0.02 * drawn[1])[None])[0])
    np.testing.assert_allclose(face.vertices, expected, atol=1e-4)
    assert np.abs(np.asarray(face.vertices - model.shape.mean)).max() > 5e-3
    facts = describe_nonlinear(path)
    assert (facts.kind, facts.identity, facts.albedo, facts.basis) == ("conv", 5, 5, "embedded")
    with safetensors.safe_open(path, "np") as handle:
        metadata = handle.metadata()
    bad = tmp_path / "bad.safetensors"
    for changes, about, message in (
        ({"albedo.decoder.full.kernel": np.zeros((1, 1, 3, 3), np.float16)}, {}, "albedo network: expected"),
        ({"albedo.mean": tensors["albedo.mean"][1:]}, {}, "albedo.mean"),
        ({}, {"kind": "spline"}, "kind 'lift' or 'conv'"),
    ):
        safetensors.numpy.save_file(tensors | changes, bad, metadata | about)
        with pytest.raises(fj.FitjaxError, match=message):
            load_nonlinear(bad, 0, ())
    with pytest.raises(FitjaxError, match="multiples of 16"):
        train_conv_decoder(replace(run, halvings=2), tmp_path)


def test_halved_faces_are_the_means_of_four():
    maps = np.random.default_rng(1).normal(size=(3, 8, 12, 3))
    weight = np.random.default_rng(2).uniform(size=(8, 12))
    half = map_faces(maps[0], maps[1:], weight, np.ones(2), halvings=1)
    c = np.array([[0.3, -1.2]], np.float32)
    whole = maps[0] + np.einsum("nk,khwc->nhwc", c, maps[1:])
    np.testing.assert_allclose(half.draw(jnp.asarray(c)), whole.reshape(1, 4, 2, 6, 2, 3).mean((2, 4)), atol=1e-6)
    np.testing.assert_allclose(half.weight, weight.reshape(4, 2, 6, 2).sum((1, 3)), rtol=1e-6)


_TEN_STEPS = """
import jax, jax.numpy as jnp, numpy as np
from fitjax.networks.conv import fading
from fitjax.networks.lift import LiftDecoder, LiftScales
from fitjax.train.lift import LiftSettings, advance, start
settings = LiftSettings(code_length=3, hidden=8, depth=1, steps=20, batch=8, warmup=2)
scales = LiftScales(jnp.asarray(0.8 ** np.arange(6), jnp.float32), jnp.eye(6))
data = jnp.asarray(np.random.default_rng(0).normal(size=(40, 6)), jnp.float32)
state, parts = advance(settings, start(settings, scales), scales, data, 10)
numbers = np.concatenate([np.asarray(x, np.float64).ravel() for x in (*jax.tree.leaves(state.weights), parts["full"])])
"""
_SAVED = """
import sys
text = advance.lower(settings, start(settings, scales), scales, data, 10).compile().as_text()
assert jax.device_count() == 2 and "all-reduce" in text, "the batch was not split"
np.save(sys.argv[1], numbers)
"""


def test_the_batch_is_split_between_devices(tmp_path):
    """Two simulated devices, in a process of its own: the numbers of one device, with gradients that are summed over both."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    path = tmp_path / "two.npy"
    subprocess.run([sys.executable, "-c", _TEN_STEPS + _SAVED, str(path)], env=environment, check=True)
    here: dict = {}
    exec(_TEN_STEPS, here)
    np.testing.assert_allclose(np.load(path), here["numbers"], rtol=1e-5, atol=1e-5)


def test_features_weigh_more_and_faces_are_mirrored():
    """The metric's square is the map's error with the chosen texels counted again; with a parity, mirrored faces are learned though none is shown."""
    rng = np.random.default_rng(3)
    weight = rng.uniform(0.5, 1.5, (5, 4))
    flat = np.linalg.qr(rng.normal(size=(60, 4)))[0].T.reshape(4, 5, 4, 3)
    modes = flat / np.sqrt(weight)[..., None]
    features = np.zeros((5, 4), bool)
    features[1:3, 2:] = True
    c = rng.normal(size=4)
    square = (weight[..., None] * np.einsum("k,khwc->hwc", c, modes) ** 2).sum(-1)
    expected = square.sum() + 3 * square[features].sum()
    assert ((c @ feature_metric(modes, weight, features, 3.0)) ** 2).sum() == pytest.approx(expected, rel=1e-5)

    settings = LiftSettings(code_length=1, hidden=8, depth=1, steps=60, batch=16, warmup=2, rate=1e-2)
    # One odd component that is always positive, and a second that follows its size: only mirrored faces have it negative.
    size = rng.uniform(0.5, 1.5, (64, 1)).astype(np.float32)
    data, mirrored = jnp.asarray(np.concatenate([size, size**2], 1)), jnp.asarray(np.concatenate([-size, size**2], 1))
    found = []
    for parity in (None, jnp.asarray([-1.0, 1.0])):
        scales = LiftScales(jnp.ones(2), jnp.eye(2), parity)
        state, _ = advance(settings, start(settings, scales), scales, data, 60)
        found.append(float(evaluate(settings, state.weights, scales, mirrored)["full"]))
    assert found[1] < 0.5 * found[0]


def test_local_components_are_what_is_left_in_their_boxes():
    """Two boxes that overlap: windows add up to one at most; reading and drawing back is the best that so many components can do; and the spread of a
    coefficient is what it is on the faces that were decomposed."""
    rng = np.random.default_rng(5)
    regions = ((2, 3, 8, 8), (4, 7, 10, 16))
    height, width = 16, 24
    weight = rng.uniform(0.5, 1.5, (height, width))
    total = np.zeros((height, width))
    for (top, left, h, w), window in zip(regions, fading(regions, height, width)):
        total[top : top + h, left : left + w] += window[..., 0]
    assert 0.9 < total.max() <= 1 + 1e-9 and total[2, 3] < 0.1 and total[0].max() == 0
    patterns = rng.normal(size=(4, height, width, 3)) * np.array([3, 2, 1, 0.5])[:, None, None, None]
    left = np.einsum("nk,khwc->nhwc", rng.normal(size=(30, 4)), patterns).astype(np.float32)
    found = local_components(lambda first, n: jnp.asarray(left[first : first + n]), 30, 4, weight, regions, batch=7)
    assert found.counts == (4, 4) and found.placed(height, width).shape == (8, height, width, 3)
    c = np.asarray(found.coefficients(jnp.asarray(left)))
    np.testing.assert_allclose(np.sqrt((c**2).mean(0)), found.sigma, rtol=1e-4)
    # Four patterns, four components per region: drawn back, each box is what its window lets through.
    drawn = np.einsum("nl,lhwc->nhwc", c, found.placed(height, width))
    np.testing.assert_allclose(drawn, left * total[..., None], atol=2e-4)


def test_the_residual_of_a_lift_is_in_its_full_face_alone():
    """Local paths: behind the gate, absent from the proxy, and of the whole face's coefficients none."""
    scales = LiftScales(jnp.asarray(0.9 ** np.arange(10), jnp.float32), 0.5 * jnp.eye(6))
    local, plain = LiftDecoder(6, 8, 2, (3, 1), 8), LiftDecoder(6, 8, 2)
    code = jax.random.normal(jax.random.key(3), (2, 4))
    weights = random_weights(local, 4, code, scales)
    full, proxy = local.apply(weights, code, scales)
    shared = {"params": {name: value for name, value in weights["params"].items() if not name.startswith("local")}}
    expected = plain.apply(shared, code, scales._replace(sigma=scales.sigma[:6]))
    np.testing.assert_allclose(full[:, :6], expected[0], atol=1e-6)
    np.testing.assert_allclose(proxy[:, :6], expected[1], atol=1e-6)
    assert np.abs(np.asarray(full[:, 6:])).min() > 1e-4 and not np.asarray(proxy[:, 6:]).any()
    assert not np.asarray(local.apply(weights, code, scales, 0.0)[0][:, 4:]).any()
    # The last path moves the last coefficient alone.
    changed = {"params": {**weights["params"], "local1": jax.tree.map(lambda x: x + 1, weights["params"]["local1"])}}
    moved = np.abs(np.asarray(local.apply(changed, code, scales)[0] - full)).max(0) > 1e-6
    assert moved.tolist() == [False] * 9 + [True]


def test_the_error_at_texels_is_that_of_the_drawn_maps():
    """Of a map of one texel, against the plain mean over faces and channels; and a lift trained for it lowers it."""
    rng = np.random.default_rng(6)
    texels, weight = rng.normal(size=(1, 3, 5)).astype(np.float32), np.ones(1, np.float32)
    settings = LiftSettings(code_length=2, hidden=8, depth=1, steps=80, batch=16, warmup=2, rate=1e-2, texel_weight=5.0, local=(2,))
    scales = LiftScales(jnp.asarray([1.0, 0.8, 0.6, 0.3, 0.2]), jnp.eye(3), texels=jnp.asarray(texels), texel_weight=jnp.asarray(weight))
    state = start(settings, scales)
    c = jnp.asarray(rng.normal(size=(64, 2)) @ rng.normal(size=(2, 5)) * np.asarray(scales.sigma), jnp.float32)
    decoder, encoder = modules(settings, 5)
    full = decoder.apply(state.weights["decoder"], encoder.apply(state.weights["encoder"], c, scales), scales)[0]
    expected = np.abs(np.einsum("br,tcr->btc", np.asarray(full - c), texels)).mean()
    before = float(evaluate(settings, state.weights, scales, c)["texels"])
    assert before == pytest.approx(expected, rel=1e-5)
    state, _ = advance(settings, state, scales, c, 80)
    assert float(evaluate(settings, state.weights, scales, c)["texels"]) < 0.6 * before


def test_more_faces_go_on_where_the_others_end(trained, tmp_path):
    """Faces beyond the kept ones have the generator's own coefficients, whatever was asked for before; other faces' chunks are refused."""
    folder, _ = trained
    faces = make_faces(TINY, folder)
    local = make_local(faces, 0, tmp_path, count=20, rank=3)
    again = make_local(faces, 0, tmp_path, count=20, rank=3)
    np.testing.assert_array_equal(local.sigma, again.sigma)
    assert again.regions == local.regions and again.counts == local.counts
    few = more_faces(faces, local, 0, tmp_path, 30)
    np.testing.assert_allclose(few[0], faces["coefficients"][:30], atol=2e-5)
    assert few[1].shape == (30, len(local.sigma)) and not list(tmp_path.glob("faces_0*"))
    with pytest.raises(FitjaxError, match="other components, another seed"):
        make_local(faces, 1, tmp_path, count=20, rank=3)


def test_a_lift_with_a_local_residual_is_trained_and_read(trained, tmp_path):
    """Of the file: the full map is the components' plus what the boxes add, at points as on the map; the proxy's is the components' alone; and a
    decoded face is encoded to a code near its own."""
    folder, _ = trained
    (tmp_path / "faces.safetensors").write_bytes((folder / "faces.safetensors").read_bytes())
    lift = replace(LIFT, steps=60, texel_weight=2.0)
    settings = replace(TINY, local=3, albedo=lift, shape=replace(TINY.shape, steps=1), feature_weight=1.0, interval=60)
    albedo = load_nonlinear(train_decoder(settings, tmp_path, say=lambda text: None), 0, ()).albedo
    local = make_local(make_faces(TINY, folder), 0, tmp_path, count=48, rank=3)
    assert albedo.regions == local.regions and albedo.local == local.counts == (3,) * len(local.regions) and albedo.rank == 24
    code = jnp.asarray(np.random.default_rng(2).normal(size=6), jnp.float32)
    (full, proxy), c = albedo.values(code), np.asarray(albedo.coefficients(code)[0])
    whole = np.asarray(albedo.mean + (c[:24] @ albedo.basis).reshape(-1, 3)).reshape(32, 40, 3)
    placed = np.einsum("l,lhwc->hwc", c[24:], local.placed(32, 40))
    np.testing.assert_allclose(full - whole, placed, atol=0.5 / 255)
    outside = np.abs(local.placed(32, 40)).max((0, 3)) == 0
    assert np.abs(placed).max() > 1 / 255 and outside.any()
    np.testing.assert_allclose(full[outside], whole[outside], atol=1e-5)
    filtered = np.asarray(albedo.coefficients(code)[1])[:24] @ albedo.basis
    np.testing.assert_allclose(proxy.ravel(), albedo.mean.ravel() + filtered, atol=1e-5)
    top, left, height, width = albedo.regions[0]
    texel = np.array([[(left + width / 2 + 0.5) / 40, 1 - (top + height / 2 + 0.5) / 32]])
    at = albedo.at(jnp.asarray(texel, jnp.float32))
    np.testing.assert_allclose(at.values(code)[0][0], full[top + height // 2, left + width // 2], atol=1e-4)
    encoded = albedo.encode(albedo.decode(jnp.zeros(6).at[0].set(1.0)))
    assert float(jnp.abs(encoded - jnp.zeros(6).at[0].set(1.0)).max()) < 0.6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"local": -1}, "local: expected 0 or more"),
        ({"local": 3, "mirrored": True}, "mirrored: expected False"),
        ({"local": 3, "feature_weight": 1.0}, "feature_weight: expected an albedo texel_weight"),
        ({"albedo": replace(LIFT, local=(3,))}, "the decoder's own setting"),
    ],
)
def test_settings_of_local_residuals_that_do_not_go_together(tmp_path, change, message):
    with pytest.raises(FitjaxError, match=message):
        train_decoder(replace(TINY, **change), tmp_path / "new")
    assert not (tmp_path / "new").exists()
