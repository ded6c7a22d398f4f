"""WebSocket doors of the daemon."""
