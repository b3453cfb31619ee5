# The types of the native module; its docstrings stand in csrc/bindings.cpp.
from typing import Any, Protocol

class DLPackTensor(Protocol):
    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any: ...

def cuda_archs() -> list[str]: ...
def latent_assemble(
    low: DLPackTensor,
    noise: DLPackTensor,
    keyframes: DLPackTensor | None,
    keyframe_indices: DLPackTensor | None,
    source: DLPackTensor | None,
    source_mask: DLPackTensor | None,
    out: DLPackTensor,
) -> None: ...
