"""`python -m rankpress.cli`."""

from rankpress.cli import main

main()
