"""The benchmarks run, write what they say they write, and compare like with like."""

import json

import numpy as np
import pytest

import fitjax as fj
from benchmarks import __main__ as command
from benchmarks import faces, peer_optimistix, report, shared_data
from benchmarks.timing import take_turns


def test_quick_accuracy_writes_markdown_and_json(tmp_path, capsys):
    shared_data.require("aflw2000/landmarks.npz", skip=pytest.skip)
    assert command.main(["--quick", "--only", "aflw", "--out", str(tmp_path)]) == 0
    text = (tmp_path / "benchmarks.md").read_text()
    assert text.strip() in capsys.readouterr().out
    assert "held out" in text and "python -m benchmarks --quick --only aflw" in text
    content = json.loads((tmp_path / "benchmarks.json").read_text())
    target = content["reports"][0]["targets"][0]
    assert target["met"] == (target["measured"] <= target["limit"])
    assert 0.1 < target["measured"] < 3


def test_missing_data_is_said_and_fails(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FITJAX_SHARED", str(tmp_path / "nowhere"))
    shared_data.aflw_annotations.cache_clear()
    try:
        assert command.main(["--quick", "--only", "aflw", "--out", str(tmp_path)]) == 1
    finally:
        shared_data.aflw_annotations.cache_clear()
    assert "FITJAX_SHARED" in capsys.readouterr().err


def test_the_peer_minimises_the_same_objective():
    """½ |residuals|² at its solution is what fitjax reports as its cost there, and neither finds a lower one."""
    pytest.importorskip("optimistix", reason="optimistix is not installed; pip install 'fitjax[bench]'")
    model = peer_optimistix.unbounded(fj.load_basis(level=0))
    observations = fj.stack_observations(faces.observe68(faces.synthetic68(model, 2), "aflw68_original"))
    own = fj.fit_batch(observations, model=model)
    objective = np.array([sum(s.costs().values()) for s in own])
    peer = peer_optimistix.build(1e-3)
    reached, steps = peer.batch(model, observations, fj.default_losses(observations))
    assert np.allclose(reached, objective, rtol=1e-3)
    assert (np.asarray(steps) > 1).all()


def test_names_and_groups_keep_their_order():
    first = ["speed", "aflw", "photos", "startup", "many_faces", "many_devices", "shared_person"]
    last = [*command.GROUPS["photometric"], "initialiser", "multi_start", "image_net", "visible_mask", "learned_fusion"]
    assert command.chosen(None) == [*first, *command.GROUPS["prdl"], "rasterize", *last]
    assert command.chosen(["startup", "accuracy"]) == ["aflw", "photos", "startup"]


def test_contenders_take_turns_and_warm_up_first():
    calls = []
    seconds = take_turns({"a": lambda k: calls.append(("a", k)), "b": lambda k: calls.append(("b", k))}, 2)
    assert calls == [("a", 0), ("b", 0), ("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2}


def test_numbers_and_targets_as_text():
    assert [report.number(x) for x in (None, float("nan"), 12, 0.8649, 1.0, 710.4, "x")] == [
        "–",
        "–",
        "12",
        "0.865",
        "1.00",
        "710",
        "x",
    ]
    rows = report.target_rows(
        [report.Target("speed", 600, 599, "faces/s", at_least=True), report.Target("error", 1, None, "%")]
    )
    assert [row[-1] for row in rows] == ["**no**", "not measured"]
    assert rows[0][1] == "≥ 600 faces/s"


def test_a_bar_in_a_cell_does_not_end_it():
    assert report.markdown_table(["a", "b"], [["|yaw|", 2]]).splitlines()[-1] == r"| \|yaw\| | 2 |"
