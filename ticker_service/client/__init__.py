"""What a consumer of the Redis channels imports."""
