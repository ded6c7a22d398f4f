"""What today's program writes is what the newest golden journal holds, on a real database."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Final

import journal_story

FOLDER: Final = Path(__file__).resolve().parents[2] / "data" / "journal"


def test_the_story_is_written_today_as_the_newest_golden_journal_has_it(database_url: str) -> None:
    # A difference is a change of what journals and consumers hold: raise the version of the event,
    # write its upcaster, and add the story as the next file. The files that are there stay.
    asyncio.run(journal_story.tell(database_url))
    newest = max(FOLDER.glob("v*.json"), key=lambda file: int(file.stem[1:]))
    assert journal_story.tables(database_url) == json.loads(newest.read_bytes())
