"""Check that raw files get the same answers in torch, in every artifact, and in an app."""
