"""`python -m edgedistill`."""

from edgedistill.cli.main import main

main()
