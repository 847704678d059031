"""Every operation of torch in a step: what it reads and writes, and its FLOPs.

FLOPs are those of torch's own table of formulas, which counts products (a multiply-add is two) and
nothing else.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakIdKeyDictionary

from deepcnn.device import DTYPES
from deepcnn.profile.trace import Trace

FORMATS = {dtype: name for name, dtype in DTYPES.items()}
CONVOLUTION, PRODUCT = "convolution", "product"  # what a machine has peaks for

# Operations without products to speak of, beside those that torch marks as pointwise or as
# reductions. What is neither here nor in torch's table is named as not counted.
FREE = frozenset([
    "arange", "as_strided", "bernoulli", "cat", "clone", "constant_pad_nd", "copy", "cumsum",
    "diagonal", "embedding", "embedding_dense", "eye", "linspace", "empty", "empty_like",
    "empty_strided", "equal", "exponential", "fill", "flip", "full", "full_like", "gather",
    "index", "index_add", "index_put", "index_select", "item", "lift_fresh", "multinomial",
    "new_empty", "new_empty_strided", "new_full", "new_ones", "new_zeros", "nonzero", "normal",
    "one_hot", "ones", "ones_like", "pixel_shuffle", "pixel_unshuffle", "rand", "rand_like",
    "randint", "randn", "randn_like", "randperm", "random", "repeat", "roll", "scalar_tensor",
    "scatter", "scatter_add", "select", "slice", "sort", "split", "stack", "topk", "tril", "triu",
    "unfold", "uniform", "zero", "zeros", "zeros_like", "_local_scalar_dense", "_to_copy",
    "_unsafe_index", "_unsafe_index_put", "im2col", "col2im", "reflection_pad2d",
    "replication_pad2d", "native_batch_norm", "_native_batch_norm_legit",
    "_native_batch_norm_legit_no_training", "batch_norm", "cudnn_batch_norm",
    "_batch_norm_with_update", "native_layer_norm", "native_group_norm", "_fused_rms_norm",
    "linalg_vector_norm", "var_mean", "max_pool2d_with_indices", "avg_pool2d",
    "_adaptive_avg_pool2d", "adaptive_max_pool2d", "_softmax", "_log_softmax", "_safe_softmax",
    "native_dropout", "nll_loss", "nll_loss_forward", "elu", "hardsigmoid", "hardswish",
    "hardtanh", "leaky_relu", "masked_fill", "rrelu_with_noise", "softplus", "threshold",
    "upsample_bicubic2d", "upsample_bilinear2d", "upsample_nearest2d", "_upsample_bicubic2d_aa",
    "_upsample_bilinear2d_aa",
])  # fmt: skip
FREE_FAMILIES = ("_fused_", "_foreach_")  # updates by optimisers
OVERWRITING = frozenset(["bernoulli_", "copy_", "fill_", "normal_", "uniform_", "zero_"])


class Version(NamedTuple):
    """What a storage holds from one operation that writes to it to the next."""

    storage: int
    number: int


class Work(NamedTuple):
    """FLOPs of one kind, in one number format."""

    format: str
    kind: str


class Operation(NamedTuple):
    """One of torch's operations: what it read and wrote, with bytes, and its products."""

    mark: int  # of the trace, under which it came
    name: str
    reads: list[tuple[Version, tuple[int, int], int]]  # and which piece of the storage
    writes: list[tuple[Version, int]]
    work: Work | None
    flops: int
    is_counted: bool


class Tally(TorchDispatchMode):
    """Follows what is computed while it is active, for the part that `trace` says is at work."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.trace = trace
        self.operations: list[Operation] = []
        self.sizes: list[int] = []  # of storages, bytes
        self.made: set[int] = set()  # storages that were not there before
        self._storages = WeakIdKeyDictionary()
        self._versions: Counter[int] = Counter()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: to be left out by torch's compiler it would be loaded, which takes two seconds."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Carry out an operation and note it; one that is made of others is taken apart first, as
        `torch.utils.flop_counter.FlopCounterMode` does.
        """
        kwargs, mark = kwargs or {}, len(self.trace.marks) - 1
        is_composed = hasattr(func, "decompose") and func._overloadpacket not in flop_registry
        if is_composed and func is not torch.ops.prim.device.default:
            with self:
                output = func.decompose(*args, **kwargs)
            if output is not NotImplemented:
                return output
        output = func(*args, **kwargs)
        self._note(mark, func, args, kwargs, output)
        return output

    def left(self) -> set[Version]:
        """What is still there."""
        return {Version(each, self._versions[each]) for each in self._storages.values()}

    def _note(
        self, mark: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        inputs, changed = _tensors((args, kwargs)), list(_changed(func, args, kwargs))
        known = {self._storage(each) for each in inputs}
        fresh = [each for each in _tensors(output) if self._storage(each) not in known]
        if not fresh and not changed:
            return  # another view of what is there, or a look at it
        name = _name(func)
        unread = {id(each) for each in changed if name in OVERWRITING}
        reads = [self._read(each) for each in inputs if id(each) not in unread]
        self.made |= {self._storage(each) for each in fresh}
        for each in changed:
            self._versions[self._storage(each)] += 1
        writes = [(self._version(each), each.nbytes) for each in [*changed, *fresh]]
        formula, work, flops = flop_registry.get(getattr(func, "_overloadpacket", func)), None, 0
        if formula:
            dtype = next(each.dtype for each in inputs)
            kind = CONVOLUTION if "conv" in name else PRODUCT
            work = Work(FORMATS.get(dtype, str(dtype)), kind)
            flops = formula(*args, **kwargs, out_val=output)
        is_counted = formula is not None or _is_free(func)
        self.operations.append(Operation(mark, name, reads, writes, work, flops, is_counted))

    def _read(self, tensor: Tensor) -> tuple[Version, tuple[int, int], int]:
        size = min(tensor.nbytes, tensor.untyped_storage().nbytes())  # less where it is expanded
        return self._version(tensor), (int(tensor.storage_offset()), tensor.numel()), size

    def _version(self, tensor: Tensor) -> Version:
        storage = self._storage(tensor)
        return Version(storage, self._versions[storage])

    def _storage(self, tensor: Tensor) -> int:
        """A number for the memory that a tensor looks at, never used again."""
        storage = tensor.untyped_storage()
        if storage not in self._storages:
            self._storages[storage] = len(self.sizes)
            self.sizes.append(storage.nbytes())
        found: int = self._storages[storage]
        return found


def _tensors(tree: Any) -> list[Tensor]:
    """Those that have memory."""
    return [
        each
        for each in tree_leaves(tree)
        if isinstance(each, Tensor) and each.layout == torch.strided
    ]


def _changed(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Tensor]:
    """The tensors that an operation writes into, as its schema says."""
    if not hasattr(func, "_schema"):
        return
    for place, argument in enumerate(func._schema.arguments):
        # Of gradients it says so too, but they are changed only where a scaler is handed over.
        if argument.alias_info and argument.alias_info.is_write and argument.name != "grads":
            given = args[place] if place < len(args) else kwargs.get(argument.name)
            yield from _tensors(given)


def _name(func: Any) -> str:
    """As torch's own documents call it, such as `convolution`; with its library if it is of none of
    torch's.
    """
    if not hasattr(func, "_schema"):
        return str(func)
    library, _, name = func._schema.name.partition("::")
    return name if library == "aten" else f"{library}::{name}"


def _is_free(func: Any) -> bool:
    tags, name = getattr(func, "tags", ()), _name(func)
    forward = name.removesuffix("_").removesuffix("_data").removesuffix("_backward")
    is_simple = torch.Tag.pointwise in tags or torch.Tag.reduction in tags
    return is_simple or forward in FREE or name.startswith(FREE_FAMILIES)
