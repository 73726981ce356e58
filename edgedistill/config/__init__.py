"""`edgedistill.toml` as frozen records, and how it is read and written."""
