"""A folder of files for an app."""
