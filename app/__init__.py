"""The shell around the engine: command line, settings, HTTP listeners, embedded servers."""
