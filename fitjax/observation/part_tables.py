"""Which label of a face parser is which part. Left and right are the subject's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fitjax.errors import FitjaxError

#: The eight parts, in the order of Wang et al. (CVPR 2024); the model's sample sets are ``part_`` + name.
PARTS = ("right_eye", "left_eye", "right_brow", "left_brow", "nose", "upper_lip", "lower_lip", "skin")

#: Parts that come in pairs.
PAIRS = (("right_eye", "left_eye"), ("right_brow", "left_brow"))

#: The place of the part that each becomes in a mirrored picture.
MIRRORED = (1, 0, 3, 2, 4, 5, 6, 7)


@dataclass(frozen=True)
class LabelTable:
    """Labels of a parser.

    Attributes:
        parts: part → its labels; both parts of a pair may have the same ones, where a parser does not tell sides apart.
        other: labels that mean none of the parts; None: every label that ``parts`` does not name.
        covers: of these, labels of what is in front of a face (hair, hat, glasses): what the model has there is not missing, but hidden.
    """

    name: str
    parts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    other: tuple[int, ...] | None = None
    covers: tuple[int, ...] = ()

    def check(self) -> None:
        """Raises :class:`FitjaxError` for an unknown part, or a table without any."""
        unknown = [p for p in self.parts if p not in PARTS]
        if unknown or not self.parts:
            raise FitjaxError(
                f"label table {self.name!r}: expected parts out of {', '.join(PARTS)}, found {unknown or 'none'}"
            )
        both = sorted({label for labels in self.parts.values() for label in labels} & set(self.covers))
        if both:
            raise FitjaxError(f"label table {self.name!r}: labels {both} are listed both as a part and under 'covers'; keep one of the two")


# "l_" and "left" are taken as the left half of the picture for these data sets, that is the subject's right. It rarely matters: by default the
# sides of a pair are told apart by the landmarks, because parsers trained with mirrored pictures often mix their labels.
#: CelebAMask-HQ's merged masks: skin, nose, glasses, l_eye, r_eye, l_brow, r_brow, l_ear, r_ear, mouth, u_lip, l_lip, hair, hat, earring,
#: necklace, neck, cloth.
CELEBAMASK_HQ = LabelTable(
    "celebamask-hq",
    {
        "right_eye": (4,),
        "left_eye": (5,),
        "right_brow": (6,),
        "left_brow": (7,),
        "nose": (2,),
        "upper_lip": (11,),
        "lower_lip": (12,),
        "skin": (1,),
    },
    (0, 3, 8, 9, 10, 13, 14, 15, 16, 17, 18),
    (3, 13, 14),
)

#: The 19 labels of the widespread BiSeNet trained on CelebAMask-HQ: skin, l_brow, r_brow, l_eye, r_eye, glasses, l_ear, r_ear, earring, nose,
#: mouth, u_lip, l_lip, neck, necklace, cloth, hair, hat.
BISENET_19 = LabelTable(
    "bisenet-19",
    {
        "right_eye": (4,),
        "left_eye": (5,),
        "right_brow": (2,),
        "left_brow": (3,),
        "nose": (10,),
        "upper_lip": (12,),
        "lower_lip": (13,),
        "skin": (1,),
    },
    (0, 6, 7, 8, 9, 11, 14, 15, 16, 17, 18),
    (6, 17, 18),
)

#: LaPa: skin, left brow, right brow, left eye, right eye, nose, upper lip, inner mouth, lower lip, hair.
LAPA = LabelTable(
    "lapa",
    {
        "right_eye": (4,),
        "left_eye": (5,),
        "right_brow": (2,),
        "left_brow": (3,),
        "nose": (6,),
        "upper_lip": (7,),
        "lower_lip": (9,),
        "skin": (1,),
    },
    (0, 8, 10),
    (10,),
)

#: Labels 1 to 8 in the order of :data:`PARTS`: what the basis' ``uv_parts`` holds and :func:`fitjax.evaluate.parts.render_parts` gives.
FITJAX = LabelTable("fitjax", {name: (label,) for label, name in enumerate(PARTS, 1)}, (0,))

TABLES = {t.name: t for t in (CELEBAMASK_HQ, LAPA, BISENET_19, FITJAX)}


def as_table(table: LabelTable | str | Mapping[str, int | tuple[int, ...]] | None) -> LabelTable:
    """A table by name, or from part → label(s); the key ``other`` names labels that are no part (default: 0 alone), ``covers`` those of
    what is in front of the face.

    Raises:
        FitjaxError: no table, an unknown name or an unknown part.
    """
    if table is None:
        raise FitjaxError(
            f"label table: expected one of {', '.join(TABLES)} or a mapping of parts to labels, found none; give table="
        )
    if isinstance(table, str):
        if table not in TABLES:
            raise FitjaxError(
                f"label table: expected one of {', '.join(TABLES)} or a mapping of parts to labels, found {table!r}"
            )
        return TABLES[table]
    if not isinstance(table, LabelTable):
        if not isinstance(table, Mapping):
            raise FitjaxError(
                f"label table: expected a name, a mapping of parts to labels or a LabelTable, found {type(table).__name__}"
            )
        given = {k: tuple(v) if isinstance(v, list | tuple) else (v,) for k, v in table.items()}
        if not all(isinstance(x, int) for labels in given.values() for x in labels):
            raise FitjaxError("label table: expected integers or tuples of integers as labels; correct the table")
        other, covers = given.pop("other", (0,)), given.pop("covers", ())
        table = LabelTable("yours", given, (*other, *(c for c in covers if c not in other)), covers)
    table.check()
    return table


# --- FaceMesh: the subject's right eye and brow, from the outer corner; lips from the subject's right to the left corner ---

RIGHT_UPPER_LID = (33, 246, 161, 160, 159, 158, 157, 173, 133)
RIGHT_LOWER_LID = (33, 7, 163, 144, 145, 153, 154, 155, 133)
LEFT_UPPER_LID = (263, 466, 388, 387, 386, 385, 384, 398, 362)
LEFT_LOWER_LID = (263, 249, 390, 373, 374, 380, 381, 382, 362)
RIGHT_BROW = (70, 63, 105, 66, 107, 55, 65, 52, 53, 46)
LEFT_BROW = (300, 293, 334, 296, 336, 285, 295, 282, 283, 276)
OUTER_UPPER_LIP = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291)
OUTER_LOWER_LIP = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291)
INNER_UPPER_LIP = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308)
INNER_LOWER_LIP = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308)
NOSE = (168, 193, 245, 188, 174, 217, 126, 142, 129, 98, 97, 2, 326, 327, 358, 371, 355, 437, 399, 412, 465, 417)
FACE_OVAL = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
    152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
#: The middle line of the nose, root to base: in profile it is the outline.
NOSE_RIDGE = (168, 6, 197, 195, 5, 4, 1, 19, 94, 2)

#: Ends of the line above which skin is left out, from the subject's right to the left: outer and inner end of each brow. The basis' ``part_skin``
#: ends there.
BROW_LINE = {
    "mediapipe478": (70, 107, 336, 300),
    "ibug68": (17, 21, 22, 26),
    "aflw68": (17, 21, 22, 26),
    "aflw68_original": (17, 21, 22, 26),
}

#: Landmarks of the right and of the left eye.
EYES = {
    "mediapipe478": (RIGHT_UPPER_LID + RIGHT_LOWER_LID, LEFT_UPPER_LID + LEFT_LOWER_LID),
    **{name: (tuple(range(36, 42)), tuple(range(42, 48))) for name in ("ibug68", "aflw68", "aflw68_original")},
}
