"""Is a finished file what it should be? Measured in one streaming pass, then judged gate by gate.

`measure` reads a file and says what it holds, `judge` holds that against limits; neither needs a model or its weights.
"""

from sky4.checking.facts import Facts, PictureFacts, Repeat, SoundFacts, Span, Sync
from sky4.checking.gates import GATES, Limits, Verdict, judge, verdict_values
from sky4.checking.measure import measure

__all__ = [
    "GATES",
    "Facts",
    "Limits",
    "PictureFacts",
    "Repeat",
    "SoundFacts",
    "Span",
    "Sync",
    "Verdict",
    "judge",
    "measure",
    "verdict_values",
]
