"""The procedural audio-visual world: scenes whose every fact is known, rendered to picture, sound and captions."""
