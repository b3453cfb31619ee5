"""Which attention computes: the choice of `sky4.ops` as those who run a model may make it."""

from sky4.ops.joint_attention import BACKENDS, use_backend

__all__ = ["BACKENDS", "use_backend"]
