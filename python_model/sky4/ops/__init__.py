"""The operations that kernels replace: a specification in plain torch and the choice of a faster path for each."""
