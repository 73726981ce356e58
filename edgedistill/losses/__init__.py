"""Loss terms, and how a configuration composes them."""
