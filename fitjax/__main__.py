"""``python -m fitjax``."""

from fitjax.cli.main import entry

entry()
