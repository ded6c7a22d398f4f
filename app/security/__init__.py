"""Who may come in, and how much of us one caller may use: tokens, then limits."""
