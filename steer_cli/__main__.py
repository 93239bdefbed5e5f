"""`python -m steer_cli` is the command `steer`."""

from steer_cli.cli import main

main()
