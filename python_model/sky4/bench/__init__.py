"""How fast the kernels, the stages and a whole generation are, and how exact: what `sky4 bench` runs."""
