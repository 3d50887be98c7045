"""A page in the user's browser."""

from __future__ import annotations

import webbrowser
from pathlib import Path

from hjepa_eval.cli.console import say_error


def open_page(path: Path) -> None:
    """Open a file in the browser; where none can be opened, as on a remote machine, say so and go on."""
    try:
        opened = webbrowser.open(path.absolute().as_uri())
    except webbrowser.Error:
        opened = False
    if not opened:
        # Whoever asked for a browser wants to know, even with --quiet.
        say_error(f"no browser can be opened here; open {path} yourself")
