"""Settings: the config file, its overrides, and every key of ours, checked before any work starts."""
