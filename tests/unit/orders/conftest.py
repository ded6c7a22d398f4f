"""Puts ``order_scene`` on the import path, and the contract that every journal keeps."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "integration" / "journal"))
