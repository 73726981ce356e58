"""The declaration of stages: settings, record and cache key."""
