"""``fitjax eval``: the published protocols, for results of ``fitjax fit`` or of any other tool. Imports nothing heavy until it runs."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

if TYPE_CHECKING:
    from fitjax.evaluate.report import Evaluation
    from fitjax.observation.part_tables import LabelTable

OUT = Path("evaluation")


@dataclass
class Aflw2000:
    """AFLW2000-3D: NME of 68 points in three yaw bins for both label sets, head pose, and the published tables beside yours."""

    predictions: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="PREDICTIONS")]
    """Folder of `fitjax fit`; or a folder of NAME.npy/.txt/.pts/.json, or one .npz, .json or .csv of another tool."""
    truth: Path
    """The data set: a folder of its .mat files, a folder of NAME.npz, or one .npz for all faces."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = field(default_factory=lambda: OUT)
    """Folder for aflw2000.json, .md and .png."""
    name: str = "yours"
    """Of the method, for tables and plot."""
    reannotated: Path | None = None
    """The re-annotated labels, .npy (N, 2 or 3, 68), where --truth does not hold them."""
    yaw: Path | None = None
    """Signed yaw in degrees to bin by, .npy (N,): the published AFLW2000-3D.pose.npy. Default: of the truth."""
    order: Path | None = None
    """Text file with a name per line: the order of the faces in --reannotated and --yaw, and which faces count. Default: all, by name."""
    keep_truth: Path | None = None
    """Write the truth as one .npz, for --truth of the next time: thousands of .mat files are slow to open."""
    original_set: str | None = None
    """Landmark set of the predictions for the original labels; default aflw68_original, else ibug68."""
    reannotated_set: str | None = None
    """Landmark set of the predictions for the re-annotated labels; default aflw68, else ibug68."""
    dense: Path | None = None
    """Folder of predicted UV position maps NAME.npy (H, W, 3), for DSFNet's dense errors."""
    dense_truth: Path | None = None
    """Folder of the true ones."""
    dense_mask: Path | None = None
    """The face in UV space, a picture or .npy (H, W)."""
    dense_landmarks: Path | None = None
    """Texels of the 68 landmarks (PRNet's uv_kpt_ind.txt), for the reconstruction error."""


@dataclass
class Scan:
    """Distance of scans to predicted meshes in mm, as NoW and REALY measure it."""

    predictions: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="PREDICTIONS")]
    """Folder of `fitjax fit`; or meshes (.obj, .ply, .npz) with seven landmarks beside them (.npy, .txt)."""
    truth: Path
    """A scan or a folder of scans: NAME.obj, .ply or .npz, or NAME/<one mesh>, or NAME/<one .obj per region>."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = field(default_factory=lambda: OUT)
    """Folder for scan.json, .md, .png, and a coloured picture per prediction."""
    name: str = "yours"
    """Of the method, for tables and plot."""
    style: Literal["now", "now-metric", "realy", "rigid-icp"] = "now"
    """now: as NoW's published code; now-metric: nothing scales; realy: regions aligned one by one; rigid-icp: seven points with scale, then rigid."""
    refine: Literal["style", "none", "rigid", "similarity"] = "style"
    """Refinement after the seven landmarks; default that of the style."""
    truth_landmarks: Path | None = None
    """Folder with the scans' landmarks NAME.npy/.txt/.pp/.json or NAME/<one file>; default beside the scans."""
    unit: str = "mm"
    """Unit of the predictions: mm, cm, m, or millimetres per unit. Results of `fitjax fit` need none."""
    truth_unit: str = "mm"
    """Unit of the scans and their landmarks."""
    neutral: bool = False
    """Of results of `fitjax fit`: the identity without its expression, as NoW's neutral scans ask for."""
    expected: Path | None = None
    """Text file with a name per line: the predictions that there should be, so that missing ones are counted. Default: one per scan."""
    pictures: int = 16
    """At most so many predictions are drawn."""
    model: str | None = None
    """Of results of `fitjax fit`: the model, by name or path, where it is not found by its name."""


@dataclass
class Parts:
    """Part IoU: label maps of a face parser against fitted faces, or against other label maps."""

    predictions: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="PREDICTIONS")]
    """Folder of `fitjax fit`; or label maps NAME.png or .npy of another tool."""
    truth: Path
    """Label maps NAME.png or .npy."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = field(default_factory=lambda: OUT)
    """Folder for parts.json, .md and .png."""
    name: str = "yours"
    """Of the method, for tables and plot."""
    label_table: str = "celebamask-hq"
    """Labels of the truth: celebamask-hq, lapa, bisenet-19, fitjax, or a .json file."""
    predicted_label_table: str | None = None
    """Labels of the predictions, where they are label maps; default those of the truth."""
    skin: bool = False
    """Count skin too; the published mean is of the other seven."""
    model: str | None = None
    """Of results of `fitjax fit`: the model, by name or path, where it is not found by its name."""


@dataclass
class Landmarks:
    """Normalised mean error of landmarks against any landmark files."""

    predictions: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="PREDICTIONS")]
    """Folder of `fitjax fit`; or a folder of NAME.npy/.txt/.pts/.json, or one .npz, .json or .csv of another tool."""
    truth: Path
    """True landmarks, in the same forms."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = field(default_factory=lambda: OUT)
    """Folder for landmarks.json, .md and .png."""
    name: str = "yours"
    """Of the method, for tables and plot."""
    normalisation: Literal["box", "diagonal", "interocular", "interpupil"] = "box"
    """box: sqrt(width · height) of the true points' box; its diagonal; distance of the eyes' outer corners; of their centres."""
    set: str | None = None
    """Landmark set to read where files name theirs; default ibug68, aflw68, aflw68_original, mediapipe478, the first that is there."""
    threshold: float = 10.0
    """Percent above which a face is a failure, and where the area under the curve ends."""


Protocol = (
    Annotated[Aflw2000, tyro.conf.subcommand("aflw2000")]
    | Annotated[Scan, tyro.conf.subcommand("scan")]
    | Annotated[Parts, tyro.conf.subcommand("parts")]
    | Annotated[Landmarks, tyro.conf.subcommand("landmarks")]
)


@dataclass
class Eval:
    """Evaluate results as the papers do: writes JSON, Markdown and a cumulative-error plot, and states the protocol that it followed."""

    protocol: tyro.conf.OmitSubcommandPrefixes[tyro.conf.OmitArgPrefixes[Protocol]]


def run_eval(command: Eval) -> int:
    """Evaluate, write, print the tables; 0 if every face of the truth has a prediction, 1 if some are missing.

    Raises:
        FitjaxError: nothing can be evaluated at all, or nowhere to write.
    """
    from fitjax.evaluate.report import table_text, write_evaluation

    options = command.protocol
    _check_out(options.out)
    if isinstance(options, Aflw2000):
        evaluation = _aflw2000(options)
    elif isinstance(options, Scan):
        evaluation = _scan(options)
    elif isinstance(options, Parts):
        evaluation = _parts(options)
    else:
        evaluation = _landmarks(options)
    written = write_evaluation(options.out, evaluation)
    for table in evaluation.tables:
        print(f"\n{table.title}\n\n{table_text(table)}")
    print(f"\n{evaluation.evaluated} of {evaluation.expected} {evaluation.counted} evaluated")
    print("\n".join(str(p) for p in written))
    sys.stdout.flush()
    _say(evaluation)
    return 1 if evaluation.missing else 0


def _check_out(out: Path) -> None:
    from fitjax.errors import FitjaxError

    if out.exists() and not out.is_dir():
        raise FitjaxError(f"--out {out}: is a file; expected a folder, which is made where it does not exist")


def _say(evaluation: Evaluation) -> None:
    """Warnings, and what is missing or left over, one line each on stderr."""
    for warning in evaluation.warnings:
        print(f"fitjax: warning: {warning}", file=sys.stderr)
    for names, text in (
        (evaluation.unused, "belong to no truth and are left out"),
        (evaluation.missing, "have no prediction"),
    ):
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            print(f"fitjax: {len(names)} {text}: {', '.join(names[:5])}{more}", file=sys.stderr)


def _aflw2000(options: Aflw2000) -> Evaluation:
    from fitjax.errors import FitjaxError
    from fitjax.evaluate.aflw2000 import READ_OFF, evaluate_aflw2000
    from fitjax.evaluate.aflw2000_truth import ORIGINAL, REANNOTATED, read_aflw2000, write_aflw2000
    from fitjax.evaluate.predictions import read_predictions

    dense = [options.dense, options.dense_truth, options.dense_mask]
    if any(dense) and not all(dense):
        raise FitjaxError("--dense: expected --dense, --dense-truth and --dense-mask together, found only some of them")
    truth = read_aflw2000(options.truth, options.reannotated, options.yaw, options.order)
    if options.keep_truth is not None:
        write_aflw2000(options.keep_truth, truth)
    read_off: dict[str, tuple[str, ...]] = dict(READ_OFF)
    for labels, chosen in ((ORIGINAL, options.original_set), (REANNOTATED, options.reannotated_set)):
        if chosen is not None:
            read_off[labels] = (chosen,)
    evaluation = evaluate_aflw2000(truth, read_predictions(options.predictions), read_off, options.name)
    if options.dense and options.dense_truth and options.dense_mask:
        from fitjax.evaluate.dense_maps import add_dense

        add_dense(
            evaluation, options.dense, options.dense_truth, options.dense_mask, options.dense_landmarks, options.name
        )
    return evaluation


def _scan(options: Scan) -> Evaluation:
    from functools import partial

    from fitjax.errors import FitjaxError
    from fitjax.evaluate.fit_results import read_fit_mesh
    from fitjax.evaluate.scan_files import find_meshes, find_scans, read_predicted, read_scan, unit_factor
    from fitjax.evaluate.scan_protocol import STYLES, with_refinement
    from fitjax.evaluate.scan_set import evaluate_scans, read_name_list

    factor, truth_factor = unit_factor(options.unit, "--unit"), unit_factor(options.truth_unit, "--truth-unit")
    if options.truth_landmarks is not None and not options.truth_landmarks.is_dir():
        raise FitjaxError(f"--truth-landmarks {options.truth_landmarks}: no such folder")
    protocol = STYLES[options.style]
    if options.refine != "style":
        protocol = with_refinement(protocol, options.refine)
    scans = {
        n: partial(read_scan, p, options.truth_landmarks, truth_factor) for n, p in find_scans(options.truth).items()
    }
    found = find_meshes(options.predictions)
    if options.neutral and not found.fits:
        raise FitjaxError(
            f"--neutral: needs results of `fitjax fit`, found meshes in {options.predictions}; write neutral meshes yourself"
        )
    if found.fits:
        meshes = {n: partial(read_fit_mesh, p, options.model, options.neutral) for n, p in found.places.items()}
        what = (
            "the fitted identity, neutral and without residual maps"
            if options.neutral
            else "the head as it was fitted, with its expression"
        )
        notes: tuple[str, ...] = (
            f"predictions: results of fitjax fit, {what}; the seven landmarks are those of the model",
        )
    else:
        meshes = {n: partial(read_predicted, p, factor) for n, p in found.places.items()}
        notes = (f"predictions: meshes, in {options.unit}; all of their triangles count as surface",)
    notes += (f"scans: {options.truth}, in {options.truth_unit}",)
    expected = None if options.expected is None else read_name_list(options.expected)
    return evaluate_scans(
        scans, meshes, protocol, expected=expected, pictures=options.pictures, name=options.name, notes=notes
    )


def _parts(options: Parts) -> Evaluation:
    from fitjax.cli.label_maps import read_labels, read_table
    from fitjax.evaluate.part_maps import evaluate_parts, fit_pair, has_sides, map_files, map_pair
    from fitjax.evaluate.predictions import fit_folders
    from fitjax.observation.part_tables import PARTS

    truth = map_files(options.truth)
    table: LabelTable = read_table(options.label_table)
    folders = {p.name: p for p in fit_folders(options.predictions)} if options.predictions.is_dir() else {}
    if folders:
        pairs = {n: fit_pair(folders[n], truth[n], table, read_labels, options.model) for n in truth if n in folders}
        followed: tuple[str, ...] = (
            f"truth: label maps, table {options.label_table}; brought to the crop of 224² pixels around the fitted face; sides told apart by the "
            "fitted eyes; skin above the brows left out",
            "predictions: results of fitjax fit, what its model shows at each pixel of the crop through its map of parts; hidden parts are hidden",
        )
        parts: tuple[str, ...] = PARTS
        everything = set(folders)
    else:
        maps = map_files(options.predictions)
        own = read_table(options.predicted_label_table) if options.predicted_label_table else table
        pairs = {n: map_pair(maps[n], truth[n], own, table, read_labels) for n in truth if n in maps}
        sided = has_sides(table) and has_sides(own)
        followed = (
            f"truth: label maps, table {options.label_table}; predictions: label maps, table {options.predicted_label_table or options.label_table}; "
            "compared at the resolution of the truth",
            "sides are those of the labels"
            if sided
            else "a table does not tell sides apart: both eyes count as one part, and both brows",
        )
        parts = PARTS if sided else tuple(p for p in PARTS if not p.startswith("left_"))
        everything = set(maps)
    parts = parts if options.skin else tuple(p for p in parts if p != "skin")
    unused = sorted(everything - set(truth))
    return evaluate_parts(pairs, list(truth), parts=parts, unused=unused, followed=followed, name=options.name)


def _landmarks(options: Landmarks) -> Evaluation:
    from fitjax.evaluate.landmarks import DEFAULT_SETS, evaluate_landmarks, read_landmark_truth
    from fitjax.evaluate.predictions import Predictions, read_predictions

    sets = DEFAULT_SETS if options.set is None else (options.set,)
    truth = read_landmark_truth(options.truth)
    predictions = (
        read_landmark_truth(options.predictions) if options.truth.is_file() else read_predictions(options.predictions)
    )
    if (
        len(truth.faces) == len(predictions.faces) == 1 and options.truth.is_file()
    ):  # two files belong together, whatever their names
        predictions = Predictions(dict(zip(truth.faces, predictions.faces.values())), predictions.kind)
    return evaluate_landmarks(
        truth, predictions, options.normalisation, sets=sets, threshold=options.threshold, name=options.name
    )
