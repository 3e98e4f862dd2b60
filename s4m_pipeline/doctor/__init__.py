"""What is wrong with an installation or an experiment, and the command that mends it; needs no torch."""
