"""Reading a ``.pth`` file that holds objects beside its tensors, without running any of them.

``torch.load(weights_only=True)`` refuses such a file as a whole. Here torch's own list of harmless
names still decides what is built. Everything else becomes an inert stand-in that keeps its name and
its state. The unpickler is Python's in pure Python, with each instruction that could call or change
something replaced.
"""

# The pure Python unpickler of the standard library has no types.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import pickle
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch._weights_only_unpickler import _get_allowed_globals

_MAKE_ARRAY = np.ones(1).__reduce__()[0]
#: The names by which NumPy 1 and 2 pickle arrays of numbers; building them runs nothing else.
ARRAYS: dict[str, Any] = {
    **dict.fromkeys(
        (f"numpy.{core}.multiarray._reconstruct" for core in ("core", "_core")), np.ones(1).__reduce__()[0]
    ),
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": np.dtype,
    **{
        f"numpy.dtypes.{kind.__name__}": kind
        for kind in {type(np.dtype(code)) for code in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "?")}
    },
}


class StandIn:
    """Stands in for an object of a training framework; it does nothing.

    Attributes:
        origin: The module and name of the class or function.
        state: The attributes or items that the file has for the object.
    """

    origin: ClassVar[str] = ""
    dump_patches: ClassVar[bool] = False  # torch asks the modules of old files

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.state: Any = None

    def append(self, item: Any) -> None:
        """Ignore an item of a list or set."""

    add = append

    def __setitem__(self, key: Any, value: Any) -> None:
        if not isinstance(self.state, dict):
            self.state = {}
        self.state[key] = value

    def content(self) -> Mapping[str, Any]:
        """Return the named content: items of a dictionary, attributes, or the parts of a module."""
        state = self.state if isinstance(self.state, Mapping) else {}
        parts = [state.get(key) for key in ("_parameters", "_buffers", "_modules")]
        if any(isinstance(part, Mapping) for part in parts):
            return {str(k): v for part in parts if isinstance(part, Mapping) for k, v in part.items()}
        return {str(key): value for key, value in state.items()}


class _Unpickler(pickle._Unpickler):  # pyright: ignore[reportAttributeAccessIssue, reportUntypedBaseClass]
    """Builds what torch allows, and stand-ins.

    Attributes:
        seen: The names of all stand-ins.
    """

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)
    seen: ClassVar[dict[str, type]] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return what torch allows under this name, or a stand-in."""
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))  # of Python 2
        origin = f"{module}.{name}"
        allowed = _get_allowed_globals() | ARRAYS
        if origin in allowed:
            return allowed[origin]
        return type(self).seen.setdefault(origin, type("StandIn", (StandIn,), {"origin": origin}))

    def _call(self, function: Any, args: Any) -> Any:
        if isinstance(function, type) and issubclass(function, StandIn):
            return function()
        if not any(function is known for known in (*_get_allowed_globals().values(), *ARRAYS.values())):
            return StandIn()
        return function(*args)

    def load_reduce(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = self._call(self.stack[-1], args)

    def load_newobj(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = self._call(self.stack[-1], args)

    def load_newobj_ex(self) -> None:
        self.stack.pop()
        self.load_newobj()

    def load_inst(self) -> None:
        module, name = (self.readline()[:-1].decode("ascii") for _ in range(2))
        args = self.pop_mark()
        self.append(self._call(self.find_class(module, name), args))

    def load_obj(self) -> None:
        args = self.pop_mark()
        self.append(self._call(args[0], args[1:]))

    def load_build(self) -> None:
        state, found = self.stack.pop(), self.stack[-1]
        if isinstance(found, StandIn):
            found.state = state[0] if isinstance(state, tuple) and state and found.state is None else state
        elif type(found) is Tensor:
            found.set_(*state)
        elif type(found) is torch.nn.Parameter or isinstance(found, np.ndarray | np.dtype):
            found.__setstate__(state)
        elif type(found) is not OrderedDict:  # its attributes, such as _metadata, are not needed
            raise pickle.UnpicklingError(f"a {type(found).__name__} cannot be changed")

    def _refuse(self) -> None:
        raise pickle.UnpicklingError("names of the extension registry are not read")

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.NEWOBJ[0]] = load_newobj
    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex
    dispatch[pickle.INST[0]] = load_inst
    dispatch[pickle.OBJ[0]] = load_obj
    dispatch[pickle.BUILD[0]] = load_build
    for _code in (pickle.EXT1, pickle.EXT2, pickle.EXT4):
        dispatch[_code[0]] = _refuse


def read_with_stand_ins(path: Path) -> tuple[Any, list[str]]:
    """Return the content of a ``.pth`` file, and the names of the objects that were not built.

    Args:
        path: A file of ``torch.save``, neither a TorchScript archive nor a tar file.

    Raises:
        Exception: The file is damaged; torch and pickle raise many kinds.
    """
    seen: dict[str, type] = {}
    own = type("_OwnUnpickler", (_Unpickler,), {"seen": seen})
    module = SimpleNamespace(  # what torch asks a pickle module for
        __name__="stand_ins",
        Unpickler=own,
        UnpicklingError=pickle.UnpicklingError,
        load=lambda file, **options: own(file, **options).load(),
    )
    with path.open("rb") as file:
        content = torch.load(file, map_location="cpu", weights_only=False, pickle_module=module)
    return content, sorted(seen)
