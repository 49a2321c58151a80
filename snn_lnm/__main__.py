"""`python -m snn_lnm`."""

from snn_lnm.cli import main

raise SystemExit(main())
