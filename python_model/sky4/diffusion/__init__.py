"""Flow matching: the convention, noise, samplers and guidance. Receives functions, never a model."""
