"""What everything else stands on: errors, console, paths, processes, signals."""
