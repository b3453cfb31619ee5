"""The detector's two small networks, and the folder that they lie in.

Legend: B films, T thumbnails, F frame features, P pair features, K = 1 + optical kinds, N pairs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from sky4.errors import RequestError
from sky4.shots.features import FRAME_FEATURES, PAIR_FEATURES
from sky4.shots.kinds import CONTENTS, OPTICALS

BUNDLED = Path(__file__).resolve().parent.parent / "assets" / "shots"
WEIGHTS, CONFIG = "model.safetensors", "config.json"
FORMAT = {"format": "sky4-shots", "version": 1, "opticals": list(OPTICALS), "contents": list(CONTENTS)}
TAPS = 5
LASTING = 2  # numbers that tell a change for good
DILATIONS = (1, 2, 3)
SEES = sum(dilation * (TAPS // 2) for dilation in DILATIONS)  # thumbnails before and behind


class ShotNetwork(nn.Module):
    """frames: what happens at each thumbnail (none, or one of OPTICALS). proof: whether a supposed cut is one. pairs:
    which of CONTENTS two shots are."""

    def __init__(self, width: int = 40, hidden: int = 64) -> None:
        super().__init__()
        sizes = [FRAME_FEATURES, *[width] * len(DILATIONS)]
        self.layers = nn.ModuleList(
            nn.Conv1d(a, b, TAPS, dilation=dilation, padding=dilation * (TAPS // 2))
            for a, b, dilation in zip(sizes, sizes[1:], DILATIONS, strict=False)
        )
        self.kind = nn.Conv1d(width, 1 + len(OPTICALS), 1)
        self.proof = nn.Linear(1 + LASTING, 1)
        self.first = nn.Linear(PAIR_FEATURES, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.content = nn.Linear(hidden, len(CONTENTS))

    def frames(self, features: Tensor) -> Tensor:
        """Logits [B, T, K] of frame features [B, T, F]."""
        hidden = features.transpose(1, 2)
        for layer in self.layers:
            hidden = functional.silu(layer(hidden))
        return self.kind(hidden).transpose(1, 2)  # type: ignore[no-any-return]

    def pairs(self, features: Tensor) -> Tensor:
        """Logits [N, 5] of pair features [N, P]."""
        hidden = functional.silu(self.first(features))
        return self.content(functional.silu(self.second(hidden)))  # type: ignore[no-any-return]

    def proven(self, chance: Tensor, lasting: Tensor) -> Tensor:
        """Logits [N] that cuts are, of their probabilities [N] by `frames` and what changes for good [N, 2]."""
        odds = torch.logit(chance, eps=1e-4)[:, None] / 4
        return self.proof(torch.cat((odds, lasting), 1))[:, 0]  # type: ignore[no-any-return]

    def save(self, folder: Path, told: Mapping[str, Any]) -> None:
        """Weights, and a configuration that tells where they come from."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        save_file(state, folder / WEIGHTS)
        sizes = {"width": self.kind.in_channels, "hidden": self.first.out_features}
        (folder / CONFIG).write_text(json.dumps({**FORMAT, **sizes, **told}, indent=2) + "\n", "utf-8")

    @classmethod
    def load(cls, folder: Path = BUNDLED) -> ShotNetwork:
        """RequestError where there is no detector of this form."""
        try:
            config = json.loads((folder / CONFIG).read_text("utf-8"))
            if {name: config[name] for name in FORMAT} != FORMAT:
                raise RequestError(f"'{folder}' holds a shot detector of another version; train it again")
            network = cls(int(config["width"]), int(config["hidden"]))
            network.load_state_dict(load_file(folder / WEIGHTS))
        except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
            if isinstance(error, RequestError):
                raise
            raise RequestError(f"'{folder}' holds no shot detector ({error}); give its folder") from error
        return network.eval()


@torch.inference_mode()
def probabilities(network: ShotNetwork, features: Tensor) -> Tensor:
    """[T, K] of one film's frame features [T, F]."""
    return network.frames(features[None]).softmax(-1)[0]
