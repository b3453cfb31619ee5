"""How a run saves memory: what is held, what is let go of and loaded again, what is computed in parts. No torch.

Nothing here changes what a clip is about; `apart` and `chunk` round differently, so that the last bits may differ, and
`weights` are rounded themselves. A recipe records it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

Eight = Literal["", "int8", "fp8"]  # the kinds of model/eight_bit.py, or none of them


@dataclass(frozen=True)
class Economy:
    """release: a network leaves the memory when its stage is over. shard: each of several processes keeps its share of
    the transformer's blocks, and they are gathered one after the other; a process alone does without. stream: the
    blocks stay in their memory-mapped file and come one after the other, the next one while this one computes. apart:
    the two prompts of guidance one after the other. chunk: latent frames that the video codec takes at once; None: as
    many as it likes. weights: "int8" or "fp8" where the transformer's and the refiner's blocks keep theirs in eight
    bits, each process all of them.
    """

    release: bool = False
    shard: bool = False
    stream: bool = False
    apart: bool = False
    chunk: int | None = None
    weights: Eight = ""

    @property
    def words(self) -> str:
        """What it does, for people."""
        said = {
            "release": "networks leave the memory when their stage is over",
            "shard": "the processes share the transformer's weights",
            "stream": "the transformer's blocks are streamed from disk",
            "apart": "the prompts are evaluated one after the other",
            "chunk": f"{self.chunk} latent frames are coded at once",
            "weights": f"the blocks' weights are {self.weights}",
        }
        told = [said[f.name] for f in fields(self) if getattr(self, f.name) != f.default]
        return "; ".join(told) or "everything stays in memory"


NO_ECONOMY = Economy()
