"""Bringing other people's face models into `fitjax-basis/1`: one module per form, and :mod:`fitjax.importers.safe`, which opens their files."""
