"""Shots: how one gives way to the next, and where that happens in a film. Import the modules: nothing is loaded here."""
