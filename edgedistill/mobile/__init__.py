"""Files for Android and iOS apps."""
