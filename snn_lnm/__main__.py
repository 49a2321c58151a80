"""`python -m snn_lnm`."""

from snn_lnm.tools.cli import main

raise SystemExit(main())
