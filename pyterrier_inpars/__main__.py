"""Entry point of ``python -m pyterrier_inpars``, the same as ``pyterrier-inpars``."""

from pyterrier_inpars.cli import main

main()
