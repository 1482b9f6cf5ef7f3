"""Synthetic portraits with complete truth, drawn in JAX from seeds alone."""

from fitjax.synth.draw import Sample, SynthModel, draw, load_synth, sample_batches
from fitjax.synth.settings import LABELS, SynthSettings

__all__ = ["LABELS", "Sample", "SynthModel", "SynthSettings", "draw", "load_synth", "sample_batches"]
