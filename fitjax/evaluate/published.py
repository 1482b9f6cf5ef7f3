"""Figures that papers publish, to print beside one's own. Sources: the papers of the methods themselves, as their tables quote each other."""

from __future__ import annotations

#: AFLW2000-3D, sparse alignment, original labels, all 2000 images: NME % at |yaw| 0–30, 30–60, 60–90, and the unweighted mean of the three.
AFLW2000_NME = (
    ("3DDFA", 3.43, 4.24, 7.17, 4.94),
    ("3D-FAN", 3.16, 3.53, 4.60, 3.76),
    ("PRNet", 2.75, 3.51, 4.61, 3.62),
    ("2DASL", 2.75, 3.46, 4.45, 3.55),
    ("3DDFA-V2 (MRS)", 2.63, 3.42, 4.48, 3.51),
    ("SynergyNet", 2.65, 3.30, 4.27, 3.41),
)

#: How far the two label sets of AFLW2000-3D are apart, measured the same way.
AFLW2000_LABELS_APART = ("(re-annotated labels)", 2.81, 3.23, 4.10, 3.38)

#: AFLW2000-3D, head pose: mean absolute error in degrees of yaw, pitch, roll, and their mean.
AFLW2000_POSE: tuple[tuple[str, float | None, float | None, float | None, float], ...] = (
    ("FSA-Net", 4.50, 6.08, 4.64, 5.07),
    ("TriNet", 4.20, 5.77, 4.04, 3.97),
    ("RankPose", 2.99, 4.75, 3.25, 3.66),
    ("3DDFA-TPAMI", 4.33, 5.98, 4.30, 4.87),
    ("3DDFA-V2", 4.06, 5.26, 3.48, 4.27),
    ("SynergyNet", 3.42, 4.09, 2.55, 3.35),
    ("DSFNet-f", None, None, None, 3.25),
)

#: AFLW2000-3D, dense: DSFNet's dense NME and reconstruction error, %.
AFLW2000_DENSE = (("DSFNet-f", 3.80, None), ("DSFNet-is", None, 3.16))

#: REALY: mean of the four regions in mm, on the frontal and the side pictures.
REALY_MM = (
    ("3DDFA-V3", 1.436, 1.442),
    ("3DDFA-V3 without PRDL", 1.568, 1.528),
    ("HRN", 1.537, 1.468),
    ("Deep3D", 1.657, 1.691),
    ("DECA", 2.010, 2.107),
    ("3DDFA-V2", 1.926, 1.943),
    ("PRNet", 2.013, 2.032),
)

#: Part IoU in %, mean of 7 parts, as the PRDL paper (Wang et al., CVPR 2024) publishes it.
PART_IOU = (
    ("3DDFA-V3", 73.82),
    ("3DDFA-V3 without PRDL", 72.08),
    ("HRN", 71.69),
    ("Deep3D", 69.51),
    ("PRNet", 63.66),
    ("DECA", 61.93),
    ("3DDFA-V2", 55.88),
)
