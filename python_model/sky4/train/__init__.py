"""Training: the frozen codecs and text encoder, then the joint model. Every draw is a function of seed and number."""
