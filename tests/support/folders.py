"""Where the checkout, the tests' own support files and the shared real images lie."""

from __future__ import annotations

import os
from pathlib import Path

SUPPORT = Path(__file__).resolve().parent
ROOT = SUPPORT.parent.parent
SHARED_DATA = Path(os.environ.get("HJEPA_SHARED_DATA", ROOT.parent / "shared" / "data"))
