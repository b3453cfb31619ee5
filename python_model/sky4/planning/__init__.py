"""What a clip would cost, before any weight is loaded: tokens, parameters, FLOPs, memory, seconds, and what fits."""
