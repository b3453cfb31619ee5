"""Files in and out: pictures, video and sound, streaming, in NumPy arrays. No torch here.

Arrays: a picture is uint8 [H, W, 3] RGB, a video uint8 [F, H, W, 3], a sound float32 [2, S] in [-1, 1].
"""

from sky4.media.audio_track import Sound
from sky4.media.continuation import JoinedSound, KeptThenMade, check_continuable, joined_packets
from sky4.media.credentials import Credentials
from sky4.media.destination import OutputFormat, check_destination, output_format
from sky4.media.images import probe_image, read_image
from sky4.media.provenance import INSIDE, Provenance, check_provenance
from sky4.media.recipe import read_recipe
from sky4.media.sound import probe_audio, read_audio, sound_power
from sky4.media.soundtrack import Soundtrack, check_soundtrack, kept_sound, mixed
from sky4.media.video import VideoFacts, iterate_video, own_rate, probe_video, read_video, shown_frames
from sky4.media.write import WrittenClip, write_clip

__all__ = [
    "INSIDE",
    "Credentials",
    "JoinedSound",
    "KeptThenMade",
    "OutputFormat",
    "Provenance",
    "Sound",
    "Soundtrack",
    "VideoFacts",
    "WrittenClip",
    "check_continuable",
    "check_destination",
    "check_provenance",
    "check_soundtrack",
    "iterate_video",
    "joined_packets",
    "kept_sound",
    "mixed",
    "output_format",
    "own_rate",
    "probe_audio",
    "probe_image",
    "probe_video",
    "read_audio",
    "read_image",
    "read_recipe",
    "read_video",
    "shown_frames",
    "sound_power",
    "write_clip",
]
