"""The form of a ``result.json`` that was written before, as far as it is read again.

``SCHEMA.md`` describes all keys. Those that a result of an earlier version lacks, and that its
readers do without, are not required.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import NotRequired, TypedDict

from tinyvit.core.errors import InputError
from tinyvit.core.values import input_error

Count = Annotated[int, Field(ge=0, lt=1 << 53)]
AtLeast1 = Annotated[int, Field(ge=1, lt=1 << 53)]
Number = Annotated[float, Field(gt=-1e15, lt=1e15)]
Positive = Annotated[float, Field(gt=1e-12, lt=1e12)]
AtLeast0 = Annotated[float, Field(ge=0, lt=1e15)]
Size = AtLeast1 | Annotated[list[AtLeast1], Field(min_length=2, max_length=2)]
Pair = Annotated[list[Positive], Field(min_length=2, max_length=2)]


class _Subject(TypedDict):
    model: str
    engine: str
    batch_size: AtLeast1
    size: Size | None
    threads: AtLeast1 | None
    device: NotRequired[str]
    allocator: NotRequired[str]
    precision: NotRequired[str]
    weights: NotRequired[str | None]
    label: NotRequired[str | None]


class _SubjectDrawn(TypedDict):
    model: str
    engine: str
    batch_size: AtLeast1
    size: Size | None
    threads: AtLeast1
    device: str
    allocator: str
    precision: str


class _Latency(TypedDict):
    median: Positive
    p90: Positive
    p99: Positive
    median_interval: Pair
    samples: Count
    rounds: Count


class _Memory(TypedDict, total=False):
    peak_mib: Number | None
    gpu_peak_mib: Number | None


class _Drift(TypedDict, total=False):
    images: Count
    max_difference: AtLeast0 | None
    centred_cosine: Number | None
    top1_agreement: AtLeast0 | None


#: The name of the first key is a word of Python.
_Class = TypedDict(
    "_Class",
    {
        "class": str,
        "share": AtLeast0,
        "milliseconds": Positive,
        "calls": AtLeast0,
        "gflops_per_second": "AtLeast0 | None",
    },
)


class _Round(TypedDict):
    index: Count
    samples: Annotated[list[Positive], Field(min_length=1)]
    start: NotRequired[Count]


class _Facts(TypedDict, total=False):
    input_shape: list[Count] | None
    sha256: dict[str, str]


class _EntryRead(TypedDict):
    label: str
    subject: _Subject
    latency_seconds: NotRequired[_Latency | None]
    facts: NotRequired[_Facts]
    rounds: NotRequired[list[_Round]]


class _Entry(TypedDict):
    label: str
    subject: _SubjectDrawn
    error: str | None
    latency_seconds: _Latency | None
    images_per_second: AtLeast0 | None
    memory: _Memory
    params: Count | None
    macs: Count | None
    mac_counter: str | None
    peak_share: AtLeast0 | None
    joules_per_image: AtLeast0 | None
    drift: _Drift | None
    profile: list[_Class] | None
    profile_note: str | None
    load_seconds: AtLeast0 | None
    first_seconds: AtLeast0 | None
    compile_seconds: AtLeast0 | None
    faults_per_step: AtLeast0 | None
    facts: _Facts
    disturbed_rounds: Count
    rounds: list[_Round]


class _Compared(TypedDict):
    subject: str
    against: str


class _Comparison(_Compared):
    verdict: Literal["faster", "slower", "cannot tell"] | None
    sentence: str
    time_ratio: NotRequired[Positive]
    speedup: NotRequired[Positive]
    speedup_interval: NotRequired[Pair]


class _Point(TypedDict):
    value: AtLeast1
    images_per_second: AtLeast0 | None


class _Knee(TypedDict):
    axis: str
    subject: str
    points: list[_Point]
    sentence: str


class _Said(TypedDict):
    sentence: str


class _LeftOut(TypedDict):
    subject: _Subject
    cell: str
    reason: str


class _Peak(TypedDict):
    precision: str
    threads: AtLeast1
    gflops_median: AtLeast0 | None
    gflops_best: AtLeast0 | None


class _GateRow(TypedDict):
    subject: str
    against: str | None
    ratio: Positive
    interval: Pair
    verdict: str


class _Gate(TypedDict):
    limit: AtLeast0
    rows: list[_GateRow]
    failed: list[str]
    undecided: NotRequired[list[str]]
    missing: list[str]
    changed: NotRequired[list[str]]
    machine_differs: list[str]


class _MachineRead(TypedDict, total=False):
    versions: dict[str, str]


class _EnvironmentRead(_MachineRead, total=False):
    gpu: str | None


class _Machine(TypedDict):
    processor: str
    flags: list[str]
    logical_cpus: Count
    usable_cpus: Count
    memory_gib: AtLeast0 | None
    system: str
    python: str
    versions: dict[str, str]


class _Contention(TypedDict):
    sentence: str
    disturbed: NotRequired[Count]
    reasons: NotRequired[dict[str, Count]]


class _PlanRead(TypedDict, total=False):
    rounds_per_start: AtLeast1 | None


class _Plan(_PlanRead):
    round_seconds: AtLeast0
    margin: AtLeast0


class _Environment(TypedDict):
    gpu: str | None


class _Report(TypedDict):
    """The part that ``compare`` and the gate read."""

    subjects: Annotated[list[_EntryRead], Field(min_length=1)]
    comparisons: NotRequired[list[_Compared]]
    plan: NotRequired[_PlanRead]
    machine: NotRequired[_MachineRead]


class _Drawn(TypedDict):
    """The part that the page and the tables read."""

    subjects: Annotated[list[_Entry], Field(min_length=1)]
    comparisons: list[_Comparison]
    plan: _Plan
    machine: _Machine
    knees: list[_Knee]
    scenarios: list[_Said]
    left_out: list[_LeftOut]
    peaks: list[_Peak]
    energy: str
    contention: _Contention
    warnings: NotRequired[list[str]]
    ended: str
    gate: NotRequired[_Gate | None]
    seconds: AtLeast0


class _Read(TypedDict):
    metrics: _Report
    environment: NotRequired[_EnvironmentRead]


class _Arguments(TypedDict, total=False):
    models: list[str] | None


class _Document(TypedDict):
    arguments: _Arguments
    environment: _Environment
    finished: str
    metrics: _Drawn


def check_document(document: Mapping[str, Any], where: str, *, drawn: bool = False) -> None:
    """Reject a result whose values are not what :mod:`..show` reads.

    Args:
        document: A ``result.json``, or the report in its ``metrics`` alone.
        where: The start of the message.
        drawn: Whether the page reads it, and not only the comparisons.

    Raises:
        InputError: A key is missing, a value is of another type or out of its range, or a
            comparison names no subject.
    """
    form = _Document if drawn else _Read if "metrics" in document else _Report
    try:
        _adapter(form).validate_python(document)
    except ValidationError as error:
        raise input_error(error, where) from None
    metrics = document.get("metrics", document)
    labels = [entry["label"] for entry in metrics["subjects"]]
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        raise InputError(f"{where}: two subjects are called {twice!r:.80}; give the file that tinyvit bench wrote")
    if drawn and any(one["latency_seconds"] and one["images_per_second"] is None for one in metrics["subjects"]):
        raise InputError(f"{where}: a subject has latency_seconds and no images_per_second; give an intact file")
    for one in metrics.get("comparisons", ()):
        for key in ("subject", "against"):
            if one[key] not in labels:
                raise InputError(f"{where}: a comparison names {one[key]!r:.80}, which is none of its subjects")
        if one.get("verdict") is not None and drawn and not {"time_ratio", "speedup", "speedup_interval"} <= one.keys():
            raise InputError(f"{where}: the comparison of {one['subject']!r:.80} has a verdict and no ratio")


@cache
def _adapter(form: Any) -> TypeAdapter[Any]:
    return TypeAdapter(with_config(ConfigDict(strict=True, allow_inf_nan=False))(form))
