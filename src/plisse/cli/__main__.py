"""`python -m plisse.cli`, the same as `plisse`."""

from plisse.cli.main import run

run()
