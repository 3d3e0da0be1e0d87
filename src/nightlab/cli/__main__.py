"""``python -m nightlab.cli``."""

from nightlab.cli import main

main()
