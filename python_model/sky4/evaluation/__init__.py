"""How good the models are: clips made from prompts, measured. Import the modules: nothing is loaded here."""
