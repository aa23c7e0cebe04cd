"""How much memory an update takes, measured without any: the real modules, forward and backward passes on fake tensors.

torch's fake tensors have shapes, types and storages but no contents. What is alive is counted operation by operation,
so that gradient checkpointing, autocast and the LoKr's form need no formulas. Not in it: the allocator's rounding and
fragmentation, cuDNN's and cuBLAS' workspaces, and the driver's own context (together one to two GiB on a GPU). Nor is what
a picture takes while it is drawn, but for the weights that it needs beside the model's (Stable Cascade's decoder).
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from repro.params import Params, Train

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from families.family import Batch, Family, Sizes, family
from families.text_cache import TextCache
from training.adapters import make_trained
from training.examples import draw_timesteps
from training.flat import FlatWeights
from training.optimizers import make_optimizer

PROMPT = "1girl, solo, looking at viewer"


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of all storages that operations make, as long as they live."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


@dataclass(frozen=True)
class Memory:
    """Bytes of a process that computes alone: what is there between updates (model, trained numbers, optimizer state), the
    most while a micro-batch is computed, one gradient buffer, what of the optimizer's state more processes share out, and what is
    there beside the model while pictures are drawn, between updates and by one process alone.

    `whole_gradient`: every process takes the whole gradient for its update (Adafactor).
    """

    resident: int
    peak: int
    gradient: int
    optimizer: int
    whole_gradient: bool
    drawing: int

    def of_process(self, virtual_ranks: int, processes: int) -> int:
        """The most that a process of so many has at once: while it computes, its own virtual ranks' sums wait in further
        gradient buffers; when all exchange, it has its sum and what it receives. It holds its share of the optimizer's state."""
        waiting = (virtual_ranks // processes).bit_length() - 1
        exchanged = 1 + (processes > 1) + self.whole_gradient
        most = max(self.peak + waiting * self.gradient, self.resident + exchanged * self.gradient, self.resident + self.drawing)
        return most - self.optimizer * (processes - 1) // processes


@contextmanager
def _fake_tensors() -> Iterator[_LiveBytes]:
    with FakeTensorMode(allow_non_fake_inputs=True), _LiveBytes() as live:
        yield live


def update_memory(params: Params, base: Path, bucket: tuple[int, int], images: int) -> Memory:
    """Memory of a process that computes micro-batches of `images` pictures of `bucket` (width, height) alone.

    Args:
        base: diffusers folder, of which configs and tokenizers are read.
    """
    settings, of = params.train, family(params.family)
    timesteps = draw_timesteps(of, params.seed, [(image,) for image in range(images)])
    with _fake_tensors() as live:
        model = of.assemble(base, of.empty_modules(base), settings.precision)
        trained = make_trained(model, params)
        flat = FlatWeights(trained.groups, settings.virtual_ranks)
        trained.fold()
        between_updates = live.now
        if params.te_lr == 0:
            model.text_cache = TextCache(params.runtime.text_cache_megabytes)
        if params.runtime.gradient_checkpointing:
            of.checkpoint_gradients(model)
        weights = of.loss_weights(model, settings, model.device)
        gradient = flat.collect_gradients()
        live.peak = live.now
        shape = (images, *of.latent_shape(of.modules_of(model), bucket))
        batch = Batch(
            ids=list(range(images)),
            latents=torch.zeros(shape),
            noise=torch.zeros(shape),
            timesteps=timesteps,
            captions=[PROMPT] * images,
            sizes=[Sizes(bucket[1], bucket[0], 0, 0, bucket[1], bucket[0])] * images,
        )
        (of.losses(model, batch, settings) * weights.of(timesteps)).sum().backward()
        trained.finish_gradients()
        peak, buffer = live.peak, gradient.untyped_storage().nbytes()
    sharded, replicated = _state_bytes(flat, settings)
    return Memory(
        resident=between_updates + sharded + replicated,
        peak=peak + sharded + replicated,
        gradient=buffer,
        optimizer=sharded,
        whole_gradient=replicated > 0,
        drawing=_drawing_bytes(of, base) if settings.pictures else 0,
    )


def _drawing_bytes(of: Family, base: Path) -> int:
    with torch.device("meta"):
        modules = of.empty_drawing_modules(base)
    return sum(tensor.nbytes for module in modules for tensor in module.state_dict().values())


def _state_bytes(flat: FlatWeights, settings: Train) -> tuple[int, int]:
    """Bytes of the optimizer's state that the processes share out among them, and that each of them has."""
    optimizer = make_optimizer(flat, range(0), settings)
    if optimizer.replicated:
        return 0, sum(tensor.numel() * tensor.element_size() for tensor in optimizer.state.values())
    return sum(optimizer.places[name][1] * tensor.element_size() for name, tensor in optimizer.state.items()), 0
