"""The one layer: a frozen layer and, by adapter name, the parameters of methods that sit on it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from weakref import WeakValueDictionary

import torch
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from subspace_tuning.algebra import Expr, Live
from subspace_tuning.algebra.cut import Cut, cut
from subspace_tuning.linalg.store import keeping
from subspace_tuning.method import Method
from subspace_tuning.method.strength import at_strength
from subspace_tuning.tuner.apart import Apart
from subspace_tuning.tuner.at_work import Dial
from subspace_tuning.tuner.held import Held
from subspace_tuning.tuner.merging import Merging
from subspace_tuning.tuner.mixed import mixed
from subspace_tuning.tuner.offload import at_hand, take_back
from subspace_tuning.tuner.pieces import gathered
from subspace_tuning.tuner.shared import Joint, SharedParameters
from subspace_tuning.tuner.start import check_seat
from subspace_tuning.weights import LayerWeight, Part, weight_of

if TYPE_CHECKING:
    from subspace_tuning.tuner.clock import Clock
    from subspace_tuning.tuner.follow import Follower


class Tuned(NamedTuple):
    """What adapters make of a frozen layer."""

    W: LayerWeight
    E: Expr  # phi(W)
    b: Live | None
    after: Expr | None  # what becomes of the output


class Share(NamedTuple):
    """What one of a layer's weights, by its number, has of its input: rows (b, ..., n). ``of`` takes its part of an
    output.
    """

    part: int
    x: Tensor
    of: Callable[[Tensor], Tensor]


KEPT = 16  # expressions, of different adapters at different strengths
BASE = "__base__"  # PEFT's name for "no adapter" in a mixed batch
LAYERS: WeakValueDictionary[int, SubspaceLayer] = WeakValueDictionary()  # all there are, in order
_numbers = count()


class SubspaceLayer(Held, Merging, Dial, Apart, BaseTunerLayer):
    """x -> x phi(W) + b, for any method that sits on a weight or a bias."""

    adapter_layer_names = ("subspace_params",)
    other_param_names = ("subspace_constants", "subspace_stored")

    def __new__(cls, *args: Any, **kwargs: Any) -> SubspaceLayer:  # copies are layers too
        layer = super().__new__(cls)
        LAYERS[next(_numbers)] = layer
        return layer

    def __init__(self, base_layer: nn.Module):
        nn.Module.__init__(self)
        Merging.__init__(self)
        Dial.__init__(self)
        self.base_layer = base_layer
        self.subspace_params = nn.ModuleDict()
        self.subspace_constants = nn.ModuleDict()  # recomputed on loading, never saved
        self.subspace_stored = nn.ModuleDict()  # saved, but not trained
        self.joint: dict[str, Joint] = {}  # what adapters share with other layers
        self._home = [SharedParameters()]  # where that is kept; in a list, as it is no part of the layer
        self.methods: dict[str, Method] = {}
        self.unread: set[str] = set()  # adapters that a checkpoint holds in another form, until that one is read
        self.dispatched = False  # whether the model is spread over devices, so that W may be away
        self.unstarted: dict[str, bool] = {}  # adapters put on while W was away; whether they were read since
        self._uncalibrated: dict[str, nn.Parameter] = {}
        self.clocks: dict[str, Clock] = {}  # the steps of training that adapters have taken
        self.path = ""  # in the model
        self.by_row = False  # whether each row goes by an adapter of its own at the moment
        self.followers: list[Follower] = []  # modules that share the weight and go by the same phi(W)
        self._tuned: dict[Any, Tuned] = {}  # by adapters and their strengths
        self._halves: dict[Any, Cut | None] = {}
        self._disable_adapters = False
        self.was_read = False

    def get_base_layer(self) -> nn.Module:
        layer = cast(nn.Module, self._modules["base_layer"])
        while "base_layer" in layer._modules:
            layer = cast(nn.Module, layer._modules["base_layer"])
        return layer

    @property
    def frozen(self) -> LayerWeight:
        """The frozen layer as W."""
        return weight_of(self.get_base_layer())

    @property
    def answers_reading(self) -> bool:
        """Whether who reads its weight reads phi(W)."""
        return False

    @property
    def frozen_weight(self) -> Tensor:
        """The frozen weight, as the frozen layer has it."""
        return super().weight

    @property
    def weight(self) -> Tensor:
        """The frozen weight, as owners may read it; those who never call the layer are told (see reached.py)."""
        if not torch.compiler.is_compiling():
            self.was_read = True
        return self.frozen_weight

    @property
    def holds_trained(self) -> bool:
        """Whether an adapter is at work here whose parameters are trained."""
        at_work = [] if self.disable_adapters else [a for a in self.active_adapters if a in self.methods]
        return any(p.requires_grad for adapter in at_work for p in self.trained(adapter).values())

    def __getattr__(self, name: str) -> Any:
        """What owners read of the layer that stood here (sizes, strides, padding); its private names are its own."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("_") or name == "base_layer":
                raise
            return getattr(self.base_layer, name)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tuned": {}, "_halves": {}}

    def add(
        self, adapter: str, method: Method, init_weights: bool = True, home: SharedParameters | None = None
    ) -> None:
        """Create the parameters of a method under an adapter's name; what layers share of them is at home in a model.

        Raises ValueError where the method cannot sit here.
        """
        with torch.no_grad(), self.in_hand(), keeping(), self.rivals_unmerged(), self.original():
            check_seat(method, self.frozen)
            constants, started, stored = self.start(method)
            if self.is_away:
                self.unstarted[adapter] = False
            for value in () if init_weights else started.values():
                value.add_(torch.randn_like(value), alpha=0.1)
        if shared := {k: started.pop(k) for k in method.shared}:
            self._home = [self._home[0] if home is None else home]
            self.joint[adapter] = self._home[0].join(adapter, method, self.path, self.frozen.shape, shared)
        params = {k: nn.Parameter(value) for k, value in started.items()}
        self.methods[adapter] = method
        self._tuned.clear()
        self._halves.clear()
        if method.calibration and init_weights:
            self._uncalibrated[adapter] = next(iter(params.values()))
        if constants := {k: v for k, v in constants.items() if k not in stored}:
            self.subspace_constants[adapter] = BufferDict(constants, persistent=False)
        if stored:
            self.subspace_stored[adapter] = BufferDict(stored, persistent=True)
        self.subspace_params[adapter] = nn.ParameterDict(params)
        self.set_adapter(self.active_adapters)

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        super().set_adapter(adapter_names, inference_mode)
        for adapter, joint in self.joint.items():
            for p in joint.values():
                p.requires_grad_(adapter in self.active_adapters and not inference_mode)
        self._build()

    def enable_adapters(self, enabled: bool) -> None:
        super().enable_adapters(enabled)
        for joint in self.joint.values() if not enabled else ():
            for p in joint.values():
                p.requires_grad_(False)

    def _build(self) -> None:
        """The expressions of the active adapters: now, because compilers cannot trace how they are built."""
        names = [a for a in self.active_adapters if a in self.methods]
        for training in (False, True) if names else ():
            self.tuned(names, training)

    @property
    def parts(self) -> list[Part]:
        """The weights that are tuned here: one."""
        return [Part("", self.frozen, lambda t: t)]

    def together(self, each: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """What each of the weights has, as the layer holds it."""
        return each[0]

    def shares(self, x: Tensor, *args: Any) -> list[Share]:
        """What each of the weights has of the layer's input and output."""
        rows = self.frozen.rows(x)
        return [Share(0, (rows if isinstance(rows, Tensor) else rows.unfold()).detach(), self.frozen.unfinish)]

    def each(self) -> Iterator[int]:
        """Put one weight to work after the other: one."""
        yield 0

    def at_work(self, adapter: str) -> Method:
        """The method of an adapter at its strength."""
        return at_strength(self.methods[adapter], self.strengths.of(adapter))

    @property
    def beneath(self) -> tuple[LayerWeight, Live | None]:
        """W and its bias, as phi finds them."""
        W = self.frozen
        return W, None if W.own_bias is None else Live(partial(getattr, W, "own_bias"))

    def tuned(self, adapters: list[str], training: bool = False) -> Tuned:
        """phi(W) and the bias after these adapters, one applied after the other; built once, then kept."""
        which = tuple((a, self.strengths.of(a)) for a in adapters)
        key = (*which, training)
        if key not in self._tuned:
            if len(self._tuned) >= KEPT:
                self._tuned.clear()
                self._halves.clear()
            after: Expr | None = None
            asked: set[str] = set()
            with gathered(self.get_base_layer()):  # for sizes
                W, b = self.beneath
                E: Expr = W
                for adapter in adapters:
                    method, p = self.at_work(adapter), self.params(adapter, training)
                    E, b = method.phi(E, p), method.bias(b, p)
                    if (own := method.output(W.shape[1], p)) is not None:
                        after = own if after is None else after @ own
                    asked |= p.asked
            for mode in (training,) if asked else (False, True):
                self._tuned[(*which, mode)] = Tuned(W, E, b, after)
        return self._tuned[key]

    def halves(self, adapters: list[str]) -> Cut | None:
        """phi(W) after these adapters, cut in front of W; made once, then kept."""
        made = self.tuned(adapters, self.training)
        key = (*((a, self.strengths.of(a)) for a in adapters), self.training)
        if key not in self._halves:
            self._halves[key] = None if made.W.built else cut(made.E, made.W)
        return self._halves[key]

    def working(self) -> list[str]:
        """The adapters that change what the frozen weight does."""
        if self.merged_adapters:
            if self._disable_adapters:
                self.unmerge()
            return []
        return [] if self._disable_adapters else [a for a in self.active_adapters if a in self.methods]

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        adapter_names = kwargs.pop("adapter_names", None)
        if adapter_names is not None:
            return mixed(self, x, adapter_names)
        active = self.working()
        if not active:
            y: Tensor = self.base_layer(x, *args, **kwargs)
            return y
        if args or kwargs:
            raise TypeError(f"a tuned layer takes its input only, got further arguments {args} {kwargs}")
        if not self.rivals():
            return self.tuned_forward(x, active)
        self.check_alone(active)
        with self.whole():
            return self.tuned_forward(x, active)

    def check_read(self, adapters: list[str]) -> None:
        """Raise RuntimeError where a checkpoint's other form of an adapter has not been read yet."""
        if self.unread.intersection(adapters):
            raise RuntimeError(
                f"the adapters {sorted(self.unread)} are stored in a form that only PEFT's loading reads: "
                "load them with PeftModel.from_pretrained or PeftModel.load_adapter"
            )

    def tuned_forward(self, x: Tensor, adapters: list[str]) -> Tensor:
        """x -> x phi(W) + b by these adapters."""
        if self.unread:
            self.check_read(adapters)
        take_back(self.containers)
        W, E, b, after = self.tuned(adapters, self.training)
        with at_hand(W.layer):
            if self.unstarted:
                self.catch_up(adapters)
            y = W.meet(x, E, None if b is None else b.now())
            return W.finish(y if after is None else after.apply(y))

    def delete_adapter(self, adapter_name: str) -> None:
        """Delete an adapter; where it was the only active one, none is: layers do not know what the others hold."""
        was_active = adapter_name in self.active_adapters
        active = [a for a in self.active_adapters if a != adapter_name]
        if was_active and not active:
            warnings.warn(f"{adapter_name!r} is deleted, no adapter is active: choose one by set_adapter", stacklevel=2)
        self._active_adapter = active  # before PEFT, which would choose one for each layer by itself
        self.methods.pop(adapter_name, None)
        self.clocks.pop(adapter_name, None)
        self.strengths.forget(adapter_name)
        self._uncalibrated.pop(adapter_name, None)
        self.unread.discard(adapter_name)
        self.unstarted.pop(adapter_name, None)
        if self.joint.pop(adapter_name, None) is not None:
            self._home[0].leave(adapter_name)
        self._tuned.clear()
        self._halves.clear()
        super().delete_adapter(adapter_name)
        if was_active:
            self.set_adapter(active)
        self._build()

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        return False

    def extra_repr(self) -> str:
        return ", ".join(f"{a}: {m.describe()}" for a, m in self.methods.items())
