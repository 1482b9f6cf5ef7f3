"""``fitjax train``."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from fitjax.errors import FitjaxError


@dataclasses.dataclass
class Train:
    """Train on generated faces of the embedded basis: a nonlinear face model (decoder), or a network that starts fits, from landmarks or from
    the photo (image). Run again with the same options, it goes on where it stopped."""

    what: Annotated[Literal["decoder", "landmarks", "image"], tyro.conf.Positional]
    """What to train: decoder, landmarks or image."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder for checkpoints, metrics.jsonl and, at the end, model.safetensors, which `fit --model` takes, landmark_net.safetensors or
    image_net.safetensors."""
    size: Literal["small", "full"] = "small"
    """small: minutes on two CPU cores; full: the settings of the model that comes with fitjax, an hour there."""
    steps: int | None = None
    """Steps of both networks, instead of those of the size."""
    seed: int | None = None
    """Of faces, weights and batches; default 0."""
    pool: Path | None = None
    """Of image: folder of the portraits, drawn where they are missing; default OUT/pool."""
    network: Literal["lift", "conv"] = "lift"
    """Of decoder: the lifted basis that comes with fitjax, or the convolutional network of Tran, Liu and Liu (model_conv.safetensors)."""
    images: Path | None = None
    """Of decoder: folder of photos that `fitjax fit -o FITS` has fitted. A trained model goes on learning from them (model_images.safetensors)."""
    fits: Path | None = None
    """With --images: folder of their results."""
    masks: Path | None = None
    """With --images: folder with <stem>.png for some of them, white where the photo shows the face."""
    start: Path | None = None
    """With --images: the model to continue from; default the one that comes with fitjax. Of image: image.checkpoint.safetensors of another run of the
    same network, whose weights are where this one begins."""
    portraits: int | None = None
    """Of image: portraits in the pool, instead of those of the size."""
    rate: float | None = None
    """Of image: highest learning rate, instead of that of the size."""
    no_pairing: bool = False
    """With --images: compare full shape and full albedo together, instead of each with the other's proxy."""


def run_train(options: Train) -> int:
    """Train or go on; returns the exit code.

    Raises:
        FitjaxError: settings that cannot work, or a folder that belongs to others.
    """
    # Networks are imported where they are used: `fitjax --help` needs neither JAX nor Flax.
    if options.steps is not None and options.steps < 1:
        raise FitjaxError(f"--steps: expected at least 1, found {options.steps}")
    if options.out.exists() and not options.out.is_dir():
        raise FitjaxError(f"--out {options.out}: expected a folder, found a file; choose another place")
    if options.what != "image" and (options.portraits is not None or options.rate is not None):
        raise FitjaxError(f"--portraits, --rate: are of `train image`, found `train {options.what}`; leave them out")
    if options.what == "landmarks" and options.start is not None:
        raise FitjaxError("--start: is of `train image` and of `train decoder --images`, found `train landmarks`; leave it out")
    if options.what == "landmarks":
        return _train_landmarks(options)
    if options.what == "image":
        return _train_image(options)
    for name in ("images", "fits", "masks", "start"):
        if getattr(options, name) is not None and (options.images is None or options.fits is None):
            missing = "--fits, the folder of their results" if options.images is not None else "--images, a folder of fitted photos"
            raise FitjaxError(f"--{name}: needs {missing}")
    began = time.perf_counter()

    def show(network: str, step: int, total: int, measured: dict[str, float]) -> None:
        errors = ", ".join(f"{name.replace('_', ' ')} {value:.5g}" for name, value in measured.items())
        print(f"{network} {step}/{total}: {errors} ({time.perf_counter() - began:.0f} s)", flush=True)

    path = _train_images(options, show) if options.images is not None else _train_decoder(options, show)
    print(f"{path} ({path.stat().st_size / 1e6:.1f} MB): fitjax fit --model {path} photo.jpg" if path else "stopped")
    return 0


def _say(text: str) -> None:
    print(text, flush=True)


def _train_decoder(options: Train, show: Any) -> Path | None:
    from fitjax.train.conv_run import CONV_PRESETS, conv_with_steps, train_conv_decoder
    from fitjax.train.run import PRESETS, train_decoder, with_steps

    if options.network == "conv":
        run = conv_with_steps(CONV_PRESETS[options.size], options.steps, options.seed)
        totals = {"conv_albedo": run.albedo.steps, "conv_shape": run.shape.steps}
        return train_conv_decoder(run, options.out, progress=lambda name, step, found: show(name, step, totals[name], found), say=_say)
    settings = with_steps(PRESETS[options.size], options.steps, options.seed)
    return train_decoder(
        settings, options.out, progress=lambda name, step, found: show(name, step, getattr(settings, name).steps, found), say=_say
    )


def _train_images(options: Train, show: Any) -> Path | None:
    from fitjax.pytree import replace
    from fitjax.train.fitted_photos import train_on_photos
    from fitjax.train.images import ImageSettings

    assert options.images is not None and options.fits is not None
    settings = ImageSettings(pairing=not options.no_pairing)
    settings = replace(settings, steps=options.steps or settings.steps, seed=settings.seed if options.seed is None else options.seed)
    places = (options.start, options.images, options.fits, options.out, settings, options.masks)
    return train_on_photos(*places, progress=lambda name, step, found: show(name, step, settings.steps, found), say=_say)


def _train_landmarks(options: Train) -> int:
    from fitjax.initial.training import PRESETS, train_landmarks
    from fitjax.pytree import replace

    settings = PRESETS[options.size]
    settings = replace(settings, steps=options.steps or settings.steps, seed=settings.seed if options.seed is None else options.seed)
    began = time.perf_counter()

    def progress(network: str, step: int, measured: dict[str, float]) -> None:
        errors = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in measured.items())
        print(f"{network} {step}/{settings.steps}: {errors} ({time.perf_counter() - began:.0f} s)", flush=True)

    path = train_landmarks(settings, options.out, progress)
    print(f"{path} ({path.stat().st_size / 1e6:.2f} MB)" if path else "stopped")
    return 0


def _train_image(options: Train) -> int:
    from fitjax.pytree import replace
    from fitjax.train.image_run import PRESETS, train_image

    given = {name: getattr(options, name) for name in ("steps", "seed", "portraits", "rate")}
    settings = replace(PRESETS[options.size], **{name: value for name, value in given.items() if value is not None})
    began = time.perf_counter()

    def progress(network: str, step: int, measured: dict[str, float]) -> None:
        total = settings.portraits if network == "pool" else settings.steps
        errors = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in measured.items())
        print(f"{network} {step}/{total}{': ' if errors else ''}{errors} ({time.perf_counter() - began:.0f} s)", flush=True)

    path = train_image(settings, options.out, progress, pool=options.pool, start=options.start)
    print(f"{path} ({path.stat().st_size / 1e6:.2f} MB)" if path else "stopped")
    return 0
