"""``fitjax fit`` on several processes: who fits what, what one of them leaves behind, and what comes out of merging."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fixtures_images import face68

from fitjax.cli.hosts import Part, manifests, meet
from fitjax.cli.main import main
from fitjax.errors import FitjaxError
from fitjax.files.manifest import hold, read_manifest
from fitjax.files.pack import read_shard, shard_path

OPTIONS = ("--pack", "--level", "0", "--batch-size", "2", "--image-size", "500", "500")
FACES = 7


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Seven faces, one of them none; and what one process makes of them."""
    folder = tmp_path_factory.mktemp("hosts")
    points = np.stack([face68() + np.random.default_rng(i).normal(scale=3, size=(68, 2)) for i in range(FACES)])
    points[2, 5] = np.nan
    np.savez(folder / "faces.npz", landmarks=points)
    assert main(["fit", str(folder / "faces.npz"), "-o", str(folder / "one"), *OPTIONS]) == 1
    return folder


def _fit(root, out, *more: str) -> int:
    return main(["fit", str(root / "faces.npz"), "-o", str(out), *OPTIONS, *more])


def _part(root, out, index: int, count: int) -> int:
    return _fit(root, out, "--processes", str(count), "--process-id", str(index))


def _faces(out) -> dict[str, tuple[str, bytes]]:
    """Status and arrays by name, in the manifest's order."""
    rows = read_manifest(out / "manifest.jsonl")[0]
    assert not any("input" in row for row in rows)
    found = {}
    for row in rows:
        record = read_shard(shard_path(out / "packed", row["shard"])).record(row["row"]) if "shard" in row else {}
        found[row["name"]] = row["status"], b"".join(record[k].tobytes() for k in sorted(record))
    assert len(found) == len(rows)
    return found


def test_parts_are_disjoint_and_whole():
    items = list(range(11))
    parts = [Part(i, 4).of(items) for i in range(4)]
    assert sorted(i for part in parts for i in part) == items and parts[1] == [1, 5, 9]
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_one_lost_and_started_again(root, tmp_path, capsys, fitted):
    """Of three processes one never comes and one is killed after its first batch; the same as one process in the end."""
    out = tmp_path / "out"
    assert _part(root, out, 0, 3) == 0
    assert "process 0 of 3: 3 of 3 fitted" in capsys.readouterr().out
    assert _part(root, out, 2, 3) == 1  # it has the face that is none
    assert main(["merge", str(out)]) == 2
    assert "2 of 7 inputs have no result yet; start process 1 of 3 again" in capsys.readouterr().err
    assert not (out / "manifest.jsonl").exists()
    torn = out / "manifest-00000-of-00003.jsonl"
    lines = torn.read_bytes().splitlines(keepends=True)
    torn.write_bytes(b"".join(lines[:2]) + lines[2][:50])
    assert main(["merge", str(out)]) == 2 and "process 0, 1 of 3" in capsys.readouterr().err
    fitted.clear()
    assert _part(root, out, 1, 3) == 0 and _part(root, out, 0, 3) == 0
    assert sum(fitted) == 3  # two of process 1, and the one whose row was lost
    assert {p.name for p in (out / "packed").iterdir()} == {"shard-00000.safetensors", "shard-100000.safetensors", "shard-200000.safetensors"}
    assert main(["merge", str(out)]) == 0
    assert "3 manifests merged: 6 of 7 fitted" in capsys.readouterr().out
    assert sorted(p.name for p in out.iterdir()) == ["manifest.jsonl", "packed"]
    assert _faces(out) == _faces(root / "one") and list(_faces(out)) == list(_faces(root / "one"))
    # Other numbers of processes know what is done.
    fitted.clear()
    assert _part(root, out, 0, 2) == 1 and _fit(root, out) == 1 and fitted == []
    assert sorted(p.name for p in out.iterdir()) == ["manifest.jsonl", "packed"]
    capsys.readouterr()


def test_one_process_ends_what_several_began(root, tmp_path, capsys, fitted):
    out = tmp_path / "out"
    assert _part(root, out, 1, 4) == 0
    fitted.clear()
    assert _fit(root, out) == 1
    assert sum(fitted) == 4 and [p.name for p in manifests(out)] == ["manifest.jsonl"]
    assert _faces(out) == _faces(root / "one")
    with hold(out / "manifest.jsonl", shared=False):
        assert _part(root, out, 0, 2) == 2
    assert "another run is writing" in capsys.readouterr().err


def test_processes_with_different_inputs_or_options_do_not_merge(root, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    shutil.copytree(root / "one", out)
    (out / "manifest.jsonl").unlink()
    rows = [dict(row, input=[i, FACES]) for i, row in enumerate(read_manifest(root / "one" / "manifest.jsonl")[0])]

    def merge(**changes) -> str:
        for part in (0, 1):
            mine = [row | (changes if part else {}) for row in rows[part::2]]
            (out / f"manifest-{part:05d}-of-00002.jsonl").write_text("".join(json.dumps(row) + "\n" for row in mine))
        code = main(["merge", str(out)])
        return f"{code} {capsys.readouterr().err}"

    assert "different inputs" in merge(input=[0, FACES]) and "different inputs" in merge(input=[1, 9])
    assert "2 sets of options" in merge(config="other")
    # Killed while it removed the parts: what is left merges.
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        assert merge().startswith("130")
    (out / "manifest-00000-of-00002.jsonl").unlink()
    assert main(["merge", str(out)]) == 0 and _faces(out) == _faces(root / "one")
    (out / "manifest.jsonl").unlink()
    assert merge().startswith("0")
    assert main(["merge", str(out)]) == 2 and "found none" in capsys.readouterr().err
    assert _faces(out) == _faces(root / "one")


def test_a_part_of_failures_alone_is_told_too(root, tmp_path, capsys, fitted):
    out = tmp_path / "out"
    assert _part(root, out, 2, 7) == 1 and fitted == []
    rows = read_manifest(out / "manifest-00002-of-00007.jsonl")[0]
    assert [(row["status"], row["input"]) for row in rows] == [("failed", [2, 7])]
    assert main(["merge", str(out)]) == 2
    assert "6 of 7 inputs have no result yet; start process 0, 1, 3, 4, 5, 6 of 7 again" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--processes", "2"], "belong together"),
        (["--processes", "2", "--process-id", "2"], "expected 0 to 1"),
        (["--processes", "0", "--process-id", "0"], "at least 1"),
        (["--coordinator", "here:1"], "needs --processes and --process-id"),
        (["--coordinator", "nowhere", "--processes", "2", "--process-id", "0"], "expected host:port"),
    ],
)
def test_options_that_do_not_go_together(root, tmp_path, capsys, more, says):
    assert _fit(root, tmp_path / "out", *more) == 2
    assert says in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_they_meet():
    """Two processes find each other over loopback by JAX's runtime, from what Slurm tells them; each gets an accelerator of its own."""
    code = "import jax; from fitjax.cli.hosts import meet; print(meet(None, None, None, 100), jax.config.values['jax_cuda_visible_devices'])"
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_NUM_NODES": "1", "SLURM_NTASKS": "2"}
    environments = [os.environ | job | {"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)} for i in (0, 1)]
    children = [subprocess.Popen([sys.executable, "-c", code], env=e, stdout=subprocess.PIPE, text=True) for e in environments]
    assert [child.communicate()[0] for child in children] == [f"Part(index={i}, count=2) {i}\n" for i in (0, 1)]


def test_nobody_to_meet(monkeypatch):
    for name in ("SLURM_JOB_ID", "OMPI_MCA_orte_hnp_uri", "JAX_COORDINATOR_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(FitjaxError, match="nothing here tells of them"):
        meet(None, None, None, 2)
