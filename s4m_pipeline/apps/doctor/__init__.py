"""What is wrong with an installation or an experiment, and the command that fixes it; needs no torch."""
