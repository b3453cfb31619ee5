"""Shots: how one gives way to the next, and where a film does so. Import the modules: nothing is loaded here."""
