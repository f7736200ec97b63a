"""``python -m pyterrier_inpars`` is the command ``pyterrier-inpars``."""

from pyterrier_inpars.cli import main

main()
