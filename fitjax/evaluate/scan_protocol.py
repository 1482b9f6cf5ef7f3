"""What is done with a scan and a prediction before distances are taken, by name, and in words: see :mod:`fitjax.evaluate.scan`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Transform = Literal["none", "rigid", "similarity"]

#: The seven landmarks in ibug's order of 68: 19, 22, 25, 28, 16, 31, 37 of the inner 51.
NOW7 = (36, 39, 42, 45, 33, 48, 54)
NOW7_NAMES = (
    "outer corner of the right eye", "inner corner of the right eye", "inner corner of the left eye", "outer corner of the left eye",
    "base of the nose", "right corner of the mouth", "left corner of the mouth",
)  # fmt: skip


@dataclass(frozen=True)
class ScanProtocol:
    """What is done before distances are taken.

    Attributes:
        name: of the style. align: of the seven landmarks. refine: of nearest points.
        crop: only scan points within NoW's ball about the face count, and are aligned to.
        per_region: each region is refined by itself, from the alignment of the seven landmarks.
        steps: the most steps of the refinement. points: the most scan points that it reads, evenly chosen; distances are taken of all.
    """

    name: str
    align: Transform = "similarity"
    refine: Transform = "rigid"
    crop: bool = True
    per_region: bool = False
    steps: int = 60
    points: int = 5_000


#: ``now``: NoW as published. ``now-metric``: its metric challenge, nothing scales. ``realy``: REALY without its non-rigid step. ``rigid-icp``: the
#: seven points with scale, then a refinement without, as many papers describe NoW.
STYLES = {
    "now": ScanProtocol("now", refine="similarity"),
    "now-metric": ScanProtocol("now-metric", align="rigid"),
    "realy": ScanProtocol("realy", crop=False, per_region=True),
    "rigid-icp": ScanProtocol("rigid-icp"),
}


def with_refinement(protocol: ScanProtocol, refine: Transform) -> ScanProtocol:
    """The protocol with another refinement; its name says so."""
    return (
        protocol
        if refine == protocol.refine
        else replace(protocol, name=f"{protocol.name}, refined {refine}", refine=refine)
    )


def protocol_lines(protocol: ScanProtocol) -> list[str]:
    """The protocol in sentences."""
    scaled = {
        "similarity": "turned, moved and scaled",
        "rigid": "turned and moved, not scaled",
        "none": "left as it is",
    }
    lines = [
        f"style {protocol.name}: by seven landmarks ({', '.join(map(str, NOW7))} of ibug's 68) the prediction is {scaled[protocol.align]}; "
        "it is never reflected",
    ]
    if protocol.refine == "none":
        lines.append("no refinement")
    else:
        lines.append(
            f"then it is {scaled[protocol.refine]}, so that the sum of the squared distances of scan points to the surface is least "
            f"(at most {protocol.points} points, evenly chosen, at most {protocol.steps} steps)"
            + (", each region by itself" if protocol.per_region else "")
        )
    lines.append(
        "scan points that count: those within the ball about the point 0.3 of the way from the base of the nose to the middle of the inner "
        "corners of the eyes, of radius 0.7 × (distance of the outer corners + length of the nose)"
        if protocol.crop
        else "scan points that count: all"
    )
    lines.append(
        "error: distance of each scan point to the nearest point of the predicted surface (exact, points inside triangles included), in mm"
    )
    if protocol.per_region:
        lines.append(
            "REALY's last step, a non-rigid registration that decides which points correspond, is not done: its published figures are higher"
        )
    return lines
