"""Every setting of ours, as frozen dataclasses that are checked in full before any work starts."""
