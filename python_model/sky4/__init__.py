"""sky4: joint video and audio generation. Nothing heavy is imported here; import the rooms you need."""

__version__ = "0.1.0"
