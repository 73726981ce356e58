"""The frozen records that stages pass to each other; all of them are JSON on disk."""
