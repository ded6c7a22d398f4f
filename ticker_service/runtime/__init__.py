"""asyncio tools without domain words: time, supervision, pacing, telemetry."""
