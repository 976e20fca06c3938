"""A device that is not there: tensors that say they are on it and are computed on the CPU, refusing what a GPU refuses.

It goes by torch's name "meta", the one device besides the CPU that every build of torch has an autograd queue for.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from training import devices

DEVICE = torch.device("meta")
aten = torch.ops.aten
# A GPU takes indexes from the CPU too.
INDEXING = (aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default)


class OnDevice(Tensor):
    """A tensor that claims the pretended device; its numbers are in a CPU tensor inside."""

    held: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "OnDevice":
        made: OnDevice = Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=DEVICE, requires_grad=inner.requires_grad,
        )  # fmt: skip
        made.held = inner.detach()
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return compute(func, args, kwargs or {})

    def tolist(self) -> Any:
        """Return the numbers, as Tensor.tolist does, which takes no subclass."""
        return self.held.tolist()


def compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operator where its tensors are; raise RuntimeError where they are not all on one device."""
    given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
    ours = [each for each in given if isinstance(each, OnDevice)]
    asked = kwargs.get("device")
    to_device = torch.device(asked) == DEVICE if asked is not None else bool(ours)
    copies = func in (aten._to_copy.default, aten.copy_.default)
    loose = given[:1] if func in INDEXING else [each for each in given if each.dim() > 0]
    if not copies and ours and not all(isinstance(each, OnDevice) for each in loose):
        raise RuntimeError(f"{func}: tensors on two devices")
    plain = tree_map(lambda each: each.held if isinstance(each, OnDevice) else each, (args, kwargs))
    if asked is not None:
        plain[1]["device"] = torch.device("cpu")
    result = func(*plain[0], **plain[1])
    if func._schema.is_mutable and result is plain[0][0]:
        return args[0]  # in place: the very tensor that was given
    return tree_map(lambda each: OnDevice(each) if isinstance(each, Tensor) and to_device else each, result)


class _Factories(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Makes tensors on the pretended device where code asks for it by name."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


class _Literals(TorchFunctionMode):
    """Keeps the numbers of literals: torch itself throws away those of tensors made on "meta"."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") == DEVICE:
            return func(*args, **(kwargs | {"device": "cpu"})).to(DEVICE)
        if func is Tensor.new_tensor and isinstance(args[0], OnDevice):
            return torch.tensor(args[1], dtype=args[0].dtype).to(DEVICE)
        return func(*args, **kwargs)


@contextmanager
def pretended_device(monkeypatch: Any) -> Iterator[None]:
    """Let the library take the pretended device for its own; models are read as ever and moved there."""
    from transformers import PreTrainedModel

    load = PreTrainedModel.from_pretrained.__func__  # type: ignore[attr-defined]

    def from_pretrained(cls: Any, *args: Any, **kwargs: Any) -> Any:
        with _disable_current_modes():
            return load(cls, *args, **kwargs)

    move = PreTrainedModel.to

    def to(self: Any, *args: Any, **kwargs: Any) -> Any:
        moved = move(self, *args, **kwargs)
        moved.tie_weights()  # a tensor of another class is a new one; a real device keeps what is shared
        return moved

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", classmethod(from_pretrained))
    monkeypatch.setattr(PreTrainedModel, "to", to)
    monkeypatch.setattr(devices, "_chosen", DEVICE)
    with _Literals(), _Factories():  # type: ignore[no-untyped-call]
        yield
