"""Random changes to valid inputs: to bytes, JSON, tables, tensors and ONNX graphs."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import torch

#: Values that are seldom what a key holds.
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 3, 2**31, -(2**63), 2**70, 10**25, 0.5, -0.0, 1e-300, 1e308),
    *(float("nan"), float("inf"), "", " ", "x", "0", "../x", "/", "é\u0000", "\ud800", "NaN", "x" * 300),
    *([], {}, [[]], [None], [0], {"x": 1}, [1, "x"]),
)
_NUMBERS = (b"\x00", b"\xff", b"\x7f", b"\x80", b"\xff" * 4, b"\x00" * 8, b"\xff" * 8, b"\x00\x00\x00\x80")


def edit_bytes(rng: random.Random, data: bytes) -> bytes:
    """Return bytes with one to four changes; half of them near the start, where headers are."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        reach = max(1, min(len(data), 200) if rng.random() < 0.5 else len(data))
        at, length = rng.randrange(reach), rng.choice((1, 1, 2, 4, 16, 100))
        start, end = data[:at], data[at:]
        flipped = bytes(byte ^ (1 << rng.randrange(8)) for byte in end[:1])
        data = rng.choice(
            (
                start + flipped + end[1:],
                start + rng.randbytes(length) + end[length:],
                start + rng.choice(_NUMBERS) + end[1:],
                start + rng.randbytes(length) + end,
                start + end[length:],
                start + end[:length] * 2 + end[length:],
                start,
            )
        )
    return data


def edit_json(rng: random.Random, document: Any) -> Any:
    """Return a document with one or two values, keys or items changed; the given one is changed
    too.
    """
    for _ in range(rng.choice((1, 1, 2))):
        places = [place for place in _places(document, None, None) if place[0] is not None]
        if not places:
            return rng.choice(ODD)
        holder, key = rng.choice(places)
        kind = rng.randrange(8)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[rng.choice((f"{key}x", key.upper(), "", "id"))] = holder.pop(key)
        elif kind == 1:
            holder.append(holder[key])
        elif kind == 2:
            holder[key] = [holder[key]]
        elif kind == 3:
            holder[key] = _near(rng, holder[key])
        elif kind == 4:
            other, at = rng.choice(places)
            holder[key] = json.loads(json.dumps(other[at]))
        else:
            holder[key] = rng.choice(ODD)
    return document


def _places(value: Any, holder: Any, key: Any) -> list[tuple[Any, Any]]:
    found = [(holder, key)]
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in list(pairs):
        found += _places(inner, value, name)
    return found


def _near(rng: random.Random, value: Any) -> Any:
    """Return a value of the same type, or of one that reads alike."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, (int, float)):
        return rng.choice((value + 1, value - 1, -value, value * 1000, float(value), str(value), value / 2))
    if isinstance(value, str):
        return rng.choice((value[:-1], value + "x", value.upper(), value[::-1], value.encode().hex()))
    return [value, value] if isinstance(value, list) else {**value, "more": 1}


def json_bytes(rng: random.Random, data: bytes) -> bytes:
    """Return a JSON file with a changed value, or with changed bytes."""
    if rng.random() < 0.15:
        return edit_bytes(rng, data)
    document = edit_json(rng, json.loads(data))
    return json.dumps(document, ensure_ascii=rng.random() < 0.9).encode("utf-8", "surrogatepass")


def safetensors_bytes(rng: random.Random, data: bytes) -> bytes:
    """Return a safetensors file with a changed header, or with changed bytes."""
    length = int.from_bytes(data[:8], "little")
    if rng.random() < 0.5:
        return edit_bytes(rng, data)
    header = json.loads(data[8 : 8 + length])
    about = header.get("__metadata__")
    if about and rng.random() < 0.5:  # documents are kept there as text
        name = rng.choice(sorted(about))
        try:
            about[name] = json.dumps(edit_json(rng, json.loads(about[name])))
        except ValueError:
            about[name] += "x"
    else:
        header = edit_json(rng, header)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def table_bytes(rng: random.Random, data: bytes) -> bytes:
    """Return a CSV file with changed rows, or with changed bytes."""
    if rng.random() < 0.3:
        return edit_bytes(rng, data)
    rows = [line.split(",") for line in data.decode().splitlines()]
    for _ in range(rng.choice((1, 2))):
        row = rng.choice(rows)
        cell = rng.randrange(len(row))
        rng.choice(
            (
                lambda row=row, cell=cell: row.__setitem__(cell, str(rng.choice(ODD))),
                lambda row=row: rows.append(list(row)),
                lambda row=row, cell=cell: row.__setitem__(cell, f'"{row[cell]}'),
                lambda row=row: row.append("x"),
                lambda row=row: rows.insert(0, list(row)),
                lambda row=row: row.pop() if len(row) > 1 else None,
            )
        )()
    return "\n".join(",".join(row) for row in rows).encode("utf-8", "surrogateescape")


def edit_tensors(rng: random.Random, state: dict[str, Any]) -> dict[str, Any]:
    """Return a state dict with one to three tensors or names changed."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        tensors = [name for name, value in state.items() if isinstance(value, torch.Tensor)]
        if not tensors:
            return state
        name = rng.choice(tensors)
        value: torch.Tensor = state[name]
        changes: tuple[Callable[[], Any], ...] = (
            lambda value=value: value.flatten(),
            lambda value=value: value[None],
            lambda value=value: value[:-1] if value.ndim else value,
            lambda value=value: torch.cat([value, value]) if value.ndim else value.repeat(2),
            lambda value=value: value.transpose(0, -1) if value.ndim else value,
            lambda value=value: value.to(rng.choice((torch.float16, torch.bfloat16, torch.float64))),
            lambda value=value: value.to(rng.choice((torch.int8, torch.int64, torch.bool, torch.complex64))),
            lambda value=value: torch.full_like(value, rng.choice((0, 1, 100))),
            lambda value=value: value.float() * rng.choice((1e30, -1.0, 1e-30)),
            lambda value=value: torch.full_like(value.float(), rng.choice((float("nan"), float("inf")))),
            lambda: torch.empty(0),
            lambda: torch.zeros(()),
            lambda: rng.choice(ODD),
        )
        kind = rng.randrange(len(changes) + 3)
        if kind < len(changes):
            state[name] = changes[kind]()
        elif kind == len(changes):
            del state[name]
        elif kind == len(changes) + 1:
            state[rng.choice((f"{name}x", f"x.{name}", name.upper(), "", name.replace(".", "_")))] = state.pop(name)
        else:
            start = rng.choice(("module.", "a.b.c.", "0.", "ema.", "..", "teacher."))
            state = {f"{start}{key}" if rng.random() < 0.95 else key: tensor for key, tensor in state.items()}
    return state


def edit_onnx(rng: random.Random, data: bytes) -> bytes:
    """Return an ONNX file with changed fields of its protobuf, or with changed bytes."""
    import onnx

    if rng.random() < 0.2:
        return edit_bytes(rng, data)
    model = onnx.load_model_from_string(data)
    for _ in range(rng.choice((1, 1, 2))):
        rng.choice((_edit_card, _edit_card, _edit_card, _edit_field, _edit_field, _edit_shape))(rng, model)
    return model.SerializeToString()


def _edit_card(rng: random.Random, model: Any) -> None:
    """Change what ``tinyvit export onnx`` says about the file."""
    if not model.metadata_props:
        return
    entry = rng.choice(model.metadata_props)
    try:
        value = json.loads(entry.value)
    except ValueError:
        entry.value = rng.choice((entry.value + "x", "", "3", "null", entry.value.upper()))
        return
    if rng.random() < 0.2:
        model.metadata_props.remove(entry)
    else:
        edited = edit_json(rng, [value])
        entry.value = json.dumps(edited[0] if isinstance(edited, list) and edited else None)


def _edit_field(rng: random.Random, message: Any) -> None:
    """Walk to a field at random and change it."""
    while True:
        fields = [(field, value) for field, value in message.ListFields() if field.name != "raw_data"]
        if not fields:
            return
        field, value = rng.choice(fields)
        many = isinstance(value, (list, tuple)) or (hasattr(value, "MergeFrom") and hasattr(value, "__getitem__"))
        if many and len(value) and rng.random() < 0.1:
            del value[rng.randrange(len(value))]
            return
        if field.type == field.TYPE_MESSAGE:
            message = rng.choice(value) if many else value
            if rng.random() < 0.05:
                message.Clear()
                return
            continue
        holder, name = (value, rng.randrange(len(value))) if many else (message, field.name)
        new = _other(rng, field, value[name] if many else value)
        if many:
            holder[name] = new
        else:
            setattr(holder, name, new)
        return


def _other(rng: random.Random, field: Any, value: Any) -> Any:
    if isinstance(value, str):
        return rng.choice((value + "x", "", value.lower(), "Relu", "MatMul", "x" * 100))
    if isinstance(value, bytes):
        return edit_bytes(rng, value) if value else b"x"
    if isinstance(value, float):
        return rng.choice((0.0, -value, value * 1e6, float("nan"), float("inf")))
    allowed = (0, 1, 2, 7, 10, 16, 100) if field.type in (field.TYPE_INT32, field.TYPE_ENUM, field.TYPE_UINT64) else ()
    return rng.choice(allowed or (0, 1, -1, value + 1, value * 2, 2**31, -(2**40)))


def _edit_shape(rng: random.Random, model: Any) -> None:
    """Change the type, the name or a length of an input or output."""
    info = rng.choice([*model.graph.input, *model.graph.output])
    tensor = info.type.tensor_type
    kind = rng.randrange(4)
    if kind == 0:
        tensor.elem_type = rng.choice((1, 2, 6, 7, 10, 11, 16, 99))
    elif kind == 1 and len(tensor.shape.dim):
        rng.choice(tensor.shape.dim).dim_value = rng.choice((0, 1, 2, 3, 4, 7, 96, 224, -1, 2**40))
    elif kind == 2 and len(tensor.shape.dim):
        del tensor.shape.dim[rng.randrange(len(tensor.shape.dim))]
    else:
        rng.choice((model.graph.input, model.graph.output)).add().CopyFrom(info)
