"""Steer a transformers model that the user has loaded: in generate, with beams, in padded batches."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import partial, wraps
from typing import Any

from torch import nn

from steer_cli.activations.arms import Steering
from steer_cli.activations.passes import Generation, Pass, read_pass
from steer_cli.activations.relative import StreamLengths, stream_lengths
from steer_cli.activations.steered_pass import Placer, Rows, SteeredPass
from steer_cli.errors import PlanError
from steer_cli.networks.adapter import Adapter, replace_stream
from steer_cli.planning.tokens import Tokenizer

_UNSTEERED: ContextVar[bool] = ContextVar("unsteered", default=False)


@contextmanager
def unsteered() -> Iterator[None]:
    """Within the `with`, passes of this thread run as if no model were steered."""
    token = _UNSTEERED.set(True)
    try:
        yield
    finally:
        _UNSTEERED.reset(token)


@contextmanager
def attached(model: nn.Module, network: Adapter, steering: Steering, tokenizer: Tokenizer) -> Iterator[None]:
    """Within the `with`, steer every pass of `model`, whichever thread runs it.

    Positions are counted from each row's own first token, so rows may be padded on the left or on the right.
    `generate` says which tokens are the prompt's; outside of it, see `passes.prompt_in`. For relative
    coefficients, each prompt is run once more before its first pass, unsteered, up to their layers.

    Args:
        model: a ...ForCausalLM, called with `input_ids`, and with `attention_mask` if they are padded.
        network: the same model.

    Raises:
        PlanError: at the end of the `with`, if an addition has acted on no token.
    """

    def measure(rows: Sequence[tuple[int, ...]]) -> Sequence[StreamLengths]:
        with unsteered():
            return stream_lengths(network, rows, steering.relative_layers)

    held = _Held(Placer(steering, tokenizer, measure))
    with ExitStack() as stack:
        for name, replaced in (("generate", held.generating), ("generate_batch", _refusing)):
            _replace(stack, model, name, replaced)
        before = model.register_forward_pre_hook(held.begin, with_kwargs=True)
        after = model.register_forward_hook(held.end, always_call=True)
        for hook in (before, after):
            stack.callback(hook.remove)
        for layer in sorted({alignment.block for alignment in steering.alignments}):
            hook = network.blocks[layer].register_forward_pre_hook(
                partial(held.change, layer), with_kwargs=True
            )
            stack.callback(hook.remove)
        yield
        held.check()


def _replace(stack: ExitStack, model: nn.Module, name: str, replaced: Callable[[Callable], Callable]) -> None:
    """Replace a method of this one model until the stack is closed."""
    method = getattr(model, name, None)
    if method is None:
        return
    own = vars(model).get(name)  # that of an enclosing `with`
    stack.callback(partial(setattr, model, name, own) if own else partial(delattr, model, name))
    setattr(model, name, replaced(method))


def _refusing(method: Callable) -> Callable:
    @wraps(method)
    def refuse(*_: Any, **__: Any) -> None:
        raise PlanError(
            "steering: continuous batching puts several texts into one row, where additions cannot be "
            "placed; use `generate`"
        )

    return refuse


class _OfThread(threading.local):
    """What one thread is doing with the model."""

    generation: Generation | None = None
    rows: Rows | None = None  # those of the generation, once its first pass has shown them
    current: SteeredPass | None = None
    last: Rows | None = None  # outside of a generation, those of the last prompts
    end: int = 0  # the columns run so far in their rows

    def followed(self, current: Pass) -> Rows:
        """The prompts that a pass of new tokens follows, on which relative coefficients are measured."""
        if self.last is None or (current.past, len(current.ids)) != (self.end, len(self.last.arms)):
            raise PlanError(
                "steering: a relative coefficient is measured on the prompts that ran last, and this pass "
                "goes on from another KV cache; run each prompt and its new tokens in turn, or use a plain "
                "number"
            )
        return self.last


class _Held:
    """The hooks on one model."""

    def __init__(self, placer: Placer):
        self._placer = placer
        self._thread = _OfThread()
        self._generating: set[int] = set()  # threads

    def generating(self, method: Callable) -> Callable:
        """`generate`, which also says what its prompt is."""
        signature = inspect.signature(method)

        @wraps(method)
        def generate(*args: Any, **kwargs: Any) -> Any:
            thread = self._thread
            if thread.generation is not None or _UNSTEERED.get():  # of an assistant that is this model itself
                return method(*args, **kwargs)
            given = signature.bind_partial(*args, **kwargs).arguments
            given |= given.get("kwargs", {})
            ids = given.get("input_ids") if given.get("inputs") is None else given["inputs"]
            # Compiled passes would not run the hooks each time.
            kwargs["disable_compile"] = True
            thread.generation, thread.rows = Generation(ids, given.get("attention_mask")), None
            self._generating.add(threading.get_ident())
            try:
                return method(*args, **kwargs)
            finally:
                thread.generation = thread.rows = None
                self._generating.discard(threading.get_ident())

        return generate

    def begin(self, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """Before a pass: find out where its tokens stand."""
        if _UNSTEERED.get():
            return
        thread = self._thread
        arguments = {**kwargs, **inspect.signature(model.forward).bind_partial(*args).arguments}
        current = read_pass(arguments)
        if thread.generation is None:
            rows = self._placer.outside(current, cached=arguments.get("use_cache") is not False)
            if rows is None and self._placer.steering.relative_layers:
                rows = thread.followed(current)
            thread.last, thread.end = rows, current.end
        elif thread.rows is None:
            rows = thread.rows = self._placer.within(thread.generation.prompt(current), current)
        else:
            rows = thread.rows
        if thread.generation is not None and rows is not None and current.past < rows.prompt.width:
            thread.generation.check(current, rows.prompt)
        thread.current = SteeredPass(self._placer, current, rows)

    def end(self, *_: Any) -> None:
        """After a pass, and after an exception in it."""
        if self._thread.current is not None:
            self._thread.current.finish()
            self._thread.current = None

    def change(self, layer: int, _: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Before a block: steer the stream that enters it."""
        if _UNSTEERED.get():
            return None
        current = self._thread.current
        if current is None:
            raise PlanError(
                "steering: a block ran outside a pass of the model that was given to it (a wrapper around "
                "the model, its decoder called directly, gradient checkpointing), so token positions are "
                "unknown; call the model itself"
            )
        return replace_stream(args, kwargs, partial(current.change, layer))

    def check(self) -> None:
        """At the end of the `with`."""
        if self._generating:
            raise PlanError(
                "steering: `generate` still runs in another thread, unsteered from here on; join that thread "
                "within the `with`"
            )
        self._placer.check()
