"""Values and rules of the market, without I/O: instruments, books, ticks, sessions."""
