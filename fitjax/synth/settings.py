"""What is drawn, and how often. Ranges are choices, not measurements of photographs."""

from __future__ import annotations

from fitjax.errors import FitjaxError
from fitjax.observation.part_tables import PARTS
from fitjax.pytree import pytree, static

#: Of label maps: 0 is what is none of the others (background, neck, ears, shoulders); 1 to 8 the parts; then what is in front of them.
LABELS = ("other", *PARTS, "hair", "glasses", "occluder")
HAIR, GLASSES, OCCLUDER = (LABELS.index(name) for name in ("hair", "glasses", "occluder"))

#: Side of the blocks that quantisation works on; a picture's side is a multiple of it.
BLOCK = 8


@pytree
class SynthSettings:
    """Ranges of random portraits; all structure.

    Attributes:
        size: side of the square picture, pixels. yaw, pitch, roll: degrees to either side; bend: uniform where it is 1, the more about zero the
            larger it is (a uniform number to its power, times the range).
        share_low, share_high: height of the face over the picture's. jitter: of its place, in sides of the picture.
        view_low, view_high: field of view, degrees.
        hair, glasses, mask, hand, thing: probability of each. expression: largest share of the expressions that are active at once.
        blur, noise: largest σ, pixels and sRGB. quality: lowest of the quantisation, 1 to 100.
    """

    size: int = static(default=192)
    yaw: float = static(default=90.0)
    pitch: float = static(default=45.0)
    roll: float = static(default=45.0)
    bend: float = static(default=1.0)
    share_low: float = static(default=0.45)
    share_high: float = static(default=0.75)
    jitter: float = static(default=0.08)
    view_low: float = static(default=12.0)
    view_high: float = static(default=60.0)
    hair: float = static(default=0.8)
    glasses: float = static(default=0.25)
    mask: float = static(default=0.07)
    hand: float = static(default=0.2)
    thing: float = static(default=0.2)
    expression: float = static(default=0.4)
    blur: float = static(default=1.6)
    noise: float = static(default=0.03)
    quality: float = static(default=35.0)


def check_settings(settings: SynthSettings) -> None:
    """Raises FitjaxError, naming the setting, for one that cannot be drawn."""

    def expect(name: str, low: float, high: float) -> None:
        value = getattr(settings, name)
        if not low <= value <= high:
            raise FitjaxError(f"synth: {name}: expected {low:g} to {high:g}, found {value}")

    expect("size", 32, 1024)
    if settings.size % BLOCK:
        raise FitjaxError(f"synth: size: expected a multiple of {BLOCK}, found {settings.size}")
    for name, low, high in (
        ("yaw", 0, 90),
        ("pitch", 0, 80),
        ("roll", 0, 180),
        ("bend", 1, 4),
        ("jitter", 0, 0.5),
        ("blur", 0, 4),
        ("noise", 0, 1),
        ("quality", 1, 100),
    ):
        expect(name, low, high)
    for name in ("hair", "glasses", "mask", "hand", "thing", "expression"):
        expect(name, 0, 1)
    for first, second, least, most in (("share_low", "share_high", 0.05, 3.0), ("view_low", "view_high", 1.0, 120.0)):
        expect(first, least, most)
        expect(second, getattr(settings, first), most)
