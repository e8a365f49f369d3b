"""``python -m tcompile``."""

from __future__ import annotations

from tcompile.cli import main

if __name__ == "__main__":
    main()
