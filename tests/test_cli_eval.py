"""``fitjax eval``: each protocol on results of ``fitjax fit`` and of other tools; three files, exit codes, one line for bad input."""

from __future__ import annotations

import json

import numpy as np
import pytest
from fit_folders import SIZE, head_points, model, pixels, write_fit
from PIL import Image

from fitjax.cli.main import main
from fitjax.evaluate.fit_results import read_fit_observation
from fitjax.evaluate.parts import crop_placement, render_parts
from fitjax.evaluate.scan_protocol import NOW7
from fitjax.files.obj import write_obj


@pytest.fixture(scope="module")
def one():
    return model()


@pytest.fixture(scope="module")
def fits(one, tmp_path_factory):
    """Three faces: anna looks ahead, bert as well but wider, cleo is anna again."""
    out = tmp_path_factory.mktemp("fits")
    wide = np.zeros(one.n_identity)
    wide[0] = 2.0
    write_fit(out / "anna", one, (1, 2, 3))
    write_fit(out / "bert", one, (4, 40, 6), wide)
    write_fit(out / "cleo", one, (0, -70, 0))
    return out


def run(capsys, *arguments):
    """Exit code, output, and lines on stderr."""
    capsys.readouterr()
    code = main(["eval", *map(str, arguments)])
    said = capsys.readouterr()
    return code, said.out, said.err.splitlines()


def read(out, protocol):
    """The three files: JSON, Markdown, size of the plot."""
    with Image.open(out / f"{protocol}.png") as plot:
        size = plot.size
    return json.loads((out / f"{protocol}.json").read_text()), (out / f"{protocol}.md").read_text(), size


def landmarks_of(fits, name, which="ibug68"):
    return np.array(json.loads((fits / name / "landmarks.json").read_text())[which])


def aflw_truth(path, fits, names, shift=(0.0, 0.0)):
    """Truth that is what was fitted, moved by a known number of pixels."""
    np.savez(
        path,
        name=np.array(names),
        landmarks=np.stack([landmarks_of(fits, n, "aflw68_original") + shift for n in names]).transpose(0, 2, 1),
        landmarks_reannotated=np.stack([landmarks_of(fits, n, "aflw68") for n in names]).transpose(0, 2, 1),
        yaw_degrees=np.array([2.0, 40.0, -70.0])[: len(names)],
        pose_pitch_yaw_roll=np.array([[1, 2, 3], [4, 42, 6], [0, -70, 0.0]])[: len(names)],
    )
    return path


def test_aflw2000(fits, tmp_path, capsys):
    truth = aflw_truth(tmp_path / "truth.npz", fits, ["anna", "bert", "cleo"], (3.0, 4.0))
    code, printed, errors = run(capsys, "aflw2000", fits, "--truth", truth, "-o", tmp_path / "out", "--name", "mine")
    assert code == 0 and all(line.startswith("fitjax: warning: published figures") for line in errors)
    content, text, size = read(tmp_path / "out", "aflw2000")
    assert size == (720, 480)
    nme = content["results"]["nme"]
    boxes = [np.sqrt(np.ptp(landmarks_of(fits, n, "aflw68_original"), axis=0).prod()) for n in ("anna", "bert", "cleo")]
    assert nme["original"]["faces"] == pytest.approx([500 / b for b in boxes], rel=1e-4)
    assert nme["re-annotated"]["mean_of_faces"] == pytest.approx(0, abs=1e-4)
    assert nme["original"]["read_off"] == {"aflw68_original": 3}
    assert content["results"]["pose"]["mae"] == pytest.approx({"pitch": 0, "yaw": 2 / 3, "roll": 0, "mean": 2 / 9})
    assert "| SynergyNet | 2.65 | 3.30 | 4.27 | 3.41 |" in printed and "**mine** (3 faces)" in text
    assert "results of fitjax fit" in text and str(tmp_path / "out" / "aflw2000.json") in printed


def test_missing_faces_give_exit_code_1_and_are_named(fits, tmp_path, capsys):
    truth = aflw_truth(tmp_path / "truth.npz", fits, ["anna", "bert", "cleo"])
    found = {n: landmarks_of(fits, n, "aflw68").tolist() for n in ("anna", "cleo")} | {"dora": [[1, 2]] * 68}
    (tmp_path / "other_tool.json").write_text(json.dumps(found))
    code, printed, errors = run(
        capsys, "aflw2000", tmp_path / "other_tool.json", "--truth", truth, "-o", tmp_path / "out"
    )
    assert code == 1 and "2 of 3 faces evaluated" in printed
    assert "fitjax: 1 have no prediction: bert" in errors
    assert "fitjax: 1 belong to no truth and are left out: dora" in errors
    content, text, _ = read(tmp_path / "out", "aflw2000")
    assert content["missing"] == ["bert"] and content["unused"] == ["dora"] and "bert" in text
    assert content["results"]["nme"]["original"]["faces"][1] is None


def test_dense_maps(fits, tmp_path, capsys):
    truth = aflw_truth(tmp_path / "truth.npz", fits, ["anna"])
    maps = np.random.default_rng(0).uniform(0, 100, (6, 6, 3))
    for name, value in (("dense", maps + np.array([0, 5.0, 0])), ("true", maps)):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "anna.npy", value)
    Image.fromarray(np.full((6, 6), 255, np.uint8)).save(tmp_path / "mask.png")
    options = ("--dense", tmp_path / "dense", "--dense-truth", tmp_path / "true", "--dense-mask", tmp_path / "mask.png")
    assert run(capsys, "aflw2000", fits, "--truth", truth, "-o", tmp_path / "out", *options)[0] == 0
    content, text, _ = read(tmp_path / "out", "aflw2000")
    assert content["results"]["dense"]["nme"] == pytest.approx(
        500 / np.sqrt(np.ptp(maps[..., 0]) * np.ptp(maps[..., 1]))
    )
    assert "| DSFNet-f | 3.80 | – |" in text
    code, _, errors = run(
        capsys, "aflw2000", fits, "--truth", truth, "--dense", tmp_path / "dense", "-o", tmp_path / "out"
    )
    assert code == 2 and "--dense-mask together" in errors[0]


def write_scan(folder, name, one, vertices, lift=0.0):
    """The front of a head in mm, its landmarks, and two regions; the left side is ``lift`` mm further out."""
    front = np.asarray(one.triangles)[vertices[np.asarray(one.triangles)][..., 2].min(1) > np.median(vertices[:, 2])]
    used, flat = np.unique(front, return_inverse=True)
    scan = 1000 * vertices[used]
    left = scan[:, 0] > np.median(scan[:, 0])
    write_obj(folder / f"{name}.obj", scan + np.where(left[:, None], [0, 0, lift], 0), flat.reshape(-1, 3))
    np.savetxt(folder / f"{name}.txt", 1000 * head_points(one, vertices, "ibug68")[list(NOW7)])
    np.save(folder / f"{name}_regions.npy", left.astype(int))


@pytest.fixture(scope="module")
def scans(one, fits, tmp_path_factory):
    """Anna's very face, and bert's with its left side lifted by a millimetre."""
    from fitjax.files.obj import read_obj

    folder = tmp_path_factory.mktemp("scans")
    for name, lift in (("anna", 0.0), ("bert", 1.0)):
        write_scan(folder, name, one, read_obj(fits / name / "posed.obj").vertices * [1, 1, 1], lift)
    return folder


def test_scan(fits, scans, tmp_path, capsys):
    code, printed, errors = run(
        capsys, "scan", fits, "--truth", scans, "-o", tmp_path, "--style", "realy", "--pictures", 1
    )
    assert code == 0 and errors == ["fitjax: 1 belong to no truth and are left out: cleo"]
    content, text, _ = read(tmp_path, "scan")
    found = content["results"]["predictions"]
    assert found["anna"]["mean"] == pytest.approx(0, abs=1e-4)
    # Each region fits by itself, and both do not fit together.
    assert max(found["bert"]["regions"].values()) < 0.05 < 0.1 < found["bert"]["mean"]
    assert "| 3DDFA-V3 | 1.44 | 1.44 |" in text and "each region by itself" in text
    with Image.open(tmp_path / "scan_anna.png") as picture:
        colours = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    assert not (tmp_path / "scan_bert.png").exists() and "scan_anna.png" in printed
    # Distances of next to nothing are the scale's first colour, darkened where the face turns away; nothing is red.
    assert ((colours[:, 2].astype(int) - colours[:, 0]) > 40).mean() > 0.15


def test_scan_of_another_tool(one, fits, scans, tmp_path, capsys):
    """NoW's layout: SUBJECT/CHALLENGE/IMG.obj with landmarks beside it, in metres; a list says what there should be."""
    from fitjax.files.obj import read_obj

    mesh = read_obj(fits / "anna" / "posed.obj")
    place = tmp_path / "pred" / "anna" / "selfie"
    place.mkdir(parents=True)
    write_obj(place / "IMG_1.obj", 1.02 * mesh.vertices, mesh.triangles)
    np.save(place / "IMG_1.npy", 1.02 * head_points(one, mesh.vertices, "ibug68"))
    (tmp_path / "list.txt").write_text("anna/selfie/IMG_1.jpg\nanna/selfie/IMG_2.jpg\n")
    options = (
        "--truth",
        scans,
        "-o",
        tmp_path / "out",
        "--unit",
        "m",
        "--expected",
        tmp_path / "list.txt",
        "--pictures",
        0,
    )
    code, _, errors = run(capsys, "scan", tmp_path / "pred", *options)
    assert code == 1 and errors == ["fitjax: 1 have no prediction: anna/selfie/IMG_2"]
    found = read(tmp_path / "out", "scan")[0]["results"]["predictions"]["anna/selfie/IMG_1"]
    assert found["mean"] == pytest.approx(0, abs=1e-3) and found["scale"] == pytest.approx(1 / 1.02, rel=1e-4)
    run(capsys, "scan", tmp_path / "pred", *options, "--style", "now-metric")
    assert read(tmp_path / "out", "scan")[0]["results"]["pooled"]["mean"] > 0.2
    code, _, errors = run(
        capsys, "scan", tmp_path / "pred", "--truth", scans, "-o", tmp_path / "out", "--style", "now-metric"
    )
    assert code == 2 and len(errors) == 1 and "metres that are taken for millimetres" in errors[0]


def test_neutral_mesh_is_the_identity_alone(one, fits, tmp_path, capsys):
    """The residual of a posed mesh that was bent by hand disappears with --neutral, which decodes the identity."""
    from fitjax.files.obj import read_obj

    head = tmp_path / "fit" / "bert"
    wide = np.zeros(one.n_identity)
    wide[0] = 2.0
    write_fit(head, one, identity=wide)
    mesh = read_obj(head / "posed.obj")
    (tmp_path / "scans").mkdir()
    write_scan(tmp_path / "scans", "bert", one, mesh.vertices)
    bent = mesh.vertices + np.array([0, 0, 0.004]) * (mesh.vertices[:, :1] > np.median(mesh.vertices[:, 0]))
    write_obj(head / "posed.obj", bent, mesh.triangles)
    means = []
    for extra in ((), ("--neutral",)):
        assert (
            run(
                capsys,
                "scan",
                tmp_path / "fit",
                "--truth",
                tmp_path / "scans",
                "-o",
                tmp_path / "out",
                "--pictures",
                0,
                *extra,
            )[0]
            == 0
        )
        means.append(read(tmp_path / "out", "scan")[0]["results"]["pooled"]["mean"])
    assert means[0] > 0.3 and means[1] < 1e-3


def test_parts_of_fits(fits, tmp_path, capsys):
    """A label map that is the render itself, brought to the photo at four times its resolution; then one whose nose is missing."""
    fitted, params, observation, size = read_fit_observation(fits / "anna")
    assert size == (SIZE, SIZE)
    crop, placement = render_parts(fitted, params, observation), crop_placement(observation)
    column, row = np.meshgrid(*2 * [(np.arange(4 * SIZE) + 0.5) / 4 - 0.5])
    at = np.rint((np.stack([column, row], -1) - placement[:, 2]) @ np.linalg.inv(placement[:, :2]).T).astype(int)
    inside = ((at >= 0) & (at < len(crop))).all(-1)
    at = np.clip(at, 0, len(crop) - 1)
    labels = np.where(inside, crop[at[..., 1], at[..., 0]], 0).astype(np.uint8)
    (tmp_path / "maps").mkdir()
    Image.fromarray(labels).save(tmp_path / "maps" / "anna.png")
    code, _, errors = run(
        capsys, "parts", fits, "--truth", tmp_path / "maps", "-o", tmp_path / "out", "--label-table", "fitjax"
    )
    assert code == 0 and errors == ["fitjax: 2 belong to no truth and are left out: bert, cleo"]
    content, text, _ = read(tmp_path / "out", "parts")
    assert content["results"]["mean_of_parts"] > 99 and "| 3DDFA-V3 | 73.82 |" in text
    np.save(tmp_path / "maps" / "anna.npy", np.where(labels == 5, 0, labels))
    (tmp_path / "maps" / "anna.png").unlink()
    run(capsys, "parts", fits, "--truth", tmp_path / "maps", "-o", tmp_path / "out", "--label-table", "fitjax")
    assert "nose" not in read(tmp_path / "out", "parts")[0]["results"]["parts"]


def test_parts_of_label_maps_by_hand(tmp_path, capsys):
    """CelebAMask's labels against fitjax's own: nose 2 rows of 4 found out of 3, one pixel of the right brow too many."""
    truth, found = np.zeros((2, 8, 8), np.uint8)
    truth[2:5, 2:6], found[3:5, 2:6] = 2, 5  # nose
    truth[0, 0:3], found[0, 0:4] = 6, 3  # right brow
    truth[0, 5:8], found[0, 5:8] = 7, 4  # left brow
    truth[7, 0:4] = 12  # lower lip, not found
    found[7, 5:8] = 6  # an upper lip that is not there
    for name, array in (("truth", truth), ("found", found)):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "a.npy", array)
    options = ("--predicted-label-table", "fitjax", "-o", tmp_path / "out")
    assert run(capsys, "parts", tmp_path / "found", "--truth", tmp_path / "truth", *options)[0] == 0
    expected = {"right_brow": 75, "left_brow": 100, "nose": 200 / 3, "lower_lip": 0}
    results = read(tmp_path / "out", "parts")[0]["results"]
    assert results["parts"] == pytest.approx(expected)
    assert results["mean_of_parts"] == pytest.approx(sum(expected.values()) / 4)
    # A map of twice the size is the same map; one of another shape is none.
    np.save(tmp_path / "found" / "a.npy", found.repeat(2, 0).repeat(2, 1))
    run(capsys, "parts", tmp_path / "found", "--truth", tmp_path / "truth", *options)
    assert read(tmp_path / "out", "parts")[0]["results"]["parts"] == pytest.approx(expected)
    np.save(tmp_path / "found" / "a.npy", found[:5])
    code, _, errors = run(capsys, "parts", tmp_path / "found", "--truth", tmp_path / "truth", *options)
    assert code == 2 and "8 × 8, found 8 × 5" in errors[0]


def test_landmarks(fits, tmp_path, capsys):
    for name in ("anna", "bert", "dora"):
        np.savetxt(
            tmp_path / f"{name}.txt", landmarks_of(fits, "anna" if name == "dora" else name) + np.array([1.0, 0])
        )
    options = ("--truth", tmp_path, "-o", tmp_path / "out", "--normalisation", "interocular")
    code, printed, errors = run(capsys, "landmarks", fits, *options)
    assert code == 1 and "fitjax: 1 have no prediction: dora" in errors and "2 of 3 faces evaluated" in printed
    content, text, _ = read(tmp_path / "out", "landmarks")
    eyes = [np.linalg.norm(np.subtract(*landmarks_of(fits, n)[[36, 45]])) for n in ("anna", "bert")]
    assert content["results"]["faces"]["anna"] == pytest.approx(100 / eyes[0], rel=1e-4)
    assert content["results"]["mean"] == pytest.approx(np.mean([100 / e for e in eyes]), rel=1e-4)
    assert "outer corners of the true eyes" in text
    one_file = run(capsys, "landmarks", tmp_path / "bert.txt", "--truth", tmp_path / "anna.txt", "-o", tmp_path / "out")
    assert one_file[0] == 0  # two files belong together, whatever their names


BAD = [
    (["aflw2000", "{fits}", "--truth", "{tmp}/absent"], "absent: no such file or folder"),
    (["aflw2000", "{tmp}/absent", "--truth", "{tmp}/truth.npz"], "absent: no such file or folder"),
    (
        ["aflw2000", "{fits}", "--truth", "{tmp}/truth.npz", "--original-set", "ibug51"],
        "sets ibug51, found ibug68, aflw68",
    ),
    (
        ["aflw2000", "{fits}", "--truth", "{tmp}/truth.npz", "--yaw", "{tmp}/short.npy"],
        "one entry for each of the truth's 1 faces",
    ),
    (["scan", "{fits}", "--truth", "{tmp}/empty"], "folder holds no scan"),
    (
        ["scan", "{fits}", "--truth", "{tmp}"],
        "none of their names belongs to a scan; predictions such as 'anna', scans such as 'truth'",
    ),
    (
        ["scan", "{fits}", "--truth", "{scans}", "--unit", "inch", "-o", "{tmp}/out"],
        "--unit: expected mm, cm, m or a number",
    ),
    (["scan", "{scans}", "--truth", "{scans}", "--neutral"], "--neutral: needs results of `fitjax fit`"),
    (["scan", "{fits}", "--truth", "{scans}", "--model", "absent"], "'absent': not found"),
    (["parts", "{fits}", "--truth", "{tmp}/empty"], "holds no label map"),
    (["parts", "{fits}", "--truth", "{tmp}/other"], "none of their names"),
    (["parts", "{fits}", "--truth", "{tmp}/other", "--label-table", "x"], "expected one of celebamask-hq"),
    (["landmarks", "{fits}", "--truth", "{tmp}/short.npy"], r"expected points \(N, 2\)"),
    (["landmarks", "{fits}", "--truth", "{fits}", "-o", "{tmp}/short.npy"], "is a file; expected a folder"),
]


@pytest.mark.parametrize(("arguments", "says"), BAD, ids=[str(k) for k in range(len(BAD))])
def test_bad_input_is_one_line(fits, scans, tmp_path, capsys, arguments, says):
    import re

    aflw_truth(tmp_path / "truth.npz", fits, ["anna"])
    np.save(tmp_path / "short.npy", np.zeros(2))
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    np.save(tmp_path / "other" / "zoe.npy", np.ones((4, 4), int))
    filled = [a.format(fits=fits, scans=scans, tmp=tmp_path) for a in arguments]
    code, _, errors = run(capsys, *filled, *(() if "-o" in filled else ("-o", tmp_path / "out")))
    assert code == 2 and len(errors) == 1 and errors[0].startswith("fitjax: "), errors
    assert re.search(says, errors[0]), errors[0]
    assert not (tmp_path / "out").exists()


def test_a_changed_model_is_refused(one, tmp_path, capsys):
    write_fit(tmp_path / "fits" / "anna", one)
    report = tmp_path / "fits" / "anna" / "report.json"
    report.write_text(report.read_text().replace(one.basis_sha256, "0" * 64))
    (tmp_path / "scans").mkdir()
    write_scan(tmp_path / "scans", "anna", one, np.asarray(one.mean, np.float64))
    code, _, errors = run(capsys, "scan", tmp_path / "fits", "--truth", tmp_path / "scans", "-o", tmp_path / "out")
    assert code == 2 and "another file of the model 'embedded'" in errors[0]


def test_landmarks_of_the_folders_are_where_the_camera_sees_them(one, fits):
    """The fixture itself: projected landmarks are inside of the picture."""
    seen = landmarks_of(fits, "anna")
    assert (seen > 0).all() and (seen < SIZE).all()
    assert np.allclose(
        seen[30],
        pixels(head_points(one, np.asarray(one.mean, np.float64), "ibug68") * [1, -1, -1] + [0.01, -0.005, 0.6])[30],
    )
