"""The weights that come with fitjax: what they were made from, how large they are, and that they do what a decoder with proxies is for."""

from __future__ import annotations

import hashlib
import json
from importlib import resources

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fitjax as fj
from fitjax.cli.main import main
from fitjax.model.nonlinear import load_nonlinear
from fitjax.train.generator import generator_hash


@pytest.fixture(scope="module")
def shipped():
    return load_nonlinear(level=0, sample_sets=("ibug68",))


@pytest.fixture(scope="module")
def record() -> dict:
    return json.loads((resources.files("fitjax") / "data" / "nonlinear.json").read_text())


def test_the_record_belongs_to_the_file_and_to_the_frozen_generator(record):
    raw = (resources.files("fitjax") / "data" / record["file"]).read_bytes()
    assert hashlib.sha256(raw).hexdigest() == record["sha256"] and len(raw) == record["bytes"] <= 10e6
    # Whoever changes a generator has to train again, or to say that the weights are of another one.
    assert record["provenance"]["generator_sha256"] == generator_hash()


def test_it_is_found_by_name(shipped):
    found = fj.load_basis("nonlinear", 0, sample_sets=("ibug68",))
    assert type(found) is type(shipped.shape) and found.code_length == shipped.shape.code_length == 80
    with pytest.raises(fj.FitjaxError, match=r"nowhere\.safetensors"):
        load_nonlinear("nowhere.safetensors")


def test_info_lists_it(capsys, record):
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    line = next(x for x in out.splitlines() if "nonlinear" in x)
    assert " 80 " in line and "CC0" in line and record["sha256"][:12] in line
    assert "lift over embedded; 80 codes of identity, 160 of albedo" in out


def test_random_faces_look_like_faces(shipped):
    """Albedo within what skin, hair and make-up reach; the head where the mean head is; and every proxy smoother and more symmetric than its face."""
    rng = np.random.default_rng(0)
    decode = jax.jit(lambda p: shipped.decode(p))
    skin = np.asarray(shipped.face_map) > 0.9
    for _ in range(4):
        params = {k: jnp.asarray(rng.normal(size=v.shape), jnp.float32) for k, v in shipped.init().items()}
        face = decode(params | {"expression": jnp.zeros(52)})
        shift = 1000 * np.linalg.norm(np.asarray(face.vertices - shipped.shape.mean), axis=1)
        assert 0.5 < np.median(shift) < 8 and shift.max() < 40
        full, proxy = (np.asarray(x) for x in (face.albedo, face.proxy_albedo))
        assert 0.01 < np.median(full[skin]) < 0.8
        for rough in (lambda x: np.abs(np.diff(x, axis=1))[skin[:, 1:]].mean(), lambda x: np.abs(x - x[:, ::-1])[skin].mean()):
            assert rough(proxy) < 0.95 * rough(full)
