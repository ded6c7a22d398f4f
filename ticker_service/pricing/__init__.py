"""Option arithmetic on columns: Black-76, volatility, Greeks, forwards; nothing that waits."""
