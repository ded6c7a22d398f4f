"""Puts ``exactly_once`` and its like, and the scene of one desk, on the import path."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "orders"))
