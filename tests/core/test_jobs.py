"""Units of work on processes: all are done, whoever dies; what is raised arrives; and where a
command works.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import sys
import threading
import time

import pytest

from tinyvit.core.errors import InputError
from tinyvit.core.jobs import Done, Here, Processes, Progress, Ranks, RayCluster, WorkerLostError, choose_place

pytestmark = pytest.mark.skipif(os.name != "posix", reason="SIGKILL")

SOURCE = """
import os, signal, time
from dataclasses import dataclass
from tinyvit.core.errors import InputError

@dataclass
class Make:
    bad: int = -1
    deadly: int = -1

    def __call__(self, device, threads=None):
        if self.bad == -2:
            raise InputError("no such teacher")
        def work(unit, report):
            report(("begun", unit))
            if unit == self.bad:
                raise InputError(f"unit {unit} is bad")
            if unit == self.deadly:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(0.01)
            return unit * unit, os.getpid(), device
        return work
"""


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    (folder / "work_for_tests.py").write_text(SOURCE)
    sys.path.insert(0, str(folder))
    import work_for_tests

    yield work_for_tests.Make
    sys.path.remove(str(folder))


def run(place, maker, units):
    with place.open(maker) as pool:
        return list(pool.run(units))


def results(events) -> dict[int, int]:
    return {event.index: event.result[0] for event in events if isinstance(event, Done)}


def test_all_units_are_done_by_all_processes_and_reported(make):
    events = run(Processes(("cpu", "cuda:1")), make(), list(range(10)))
    assert results(events) == {unit: unit * unit for unit in range(10)}
    assert sorted(event.value for event in events if isinstance(event, Progress)) == [("begun", n) for n in range(10)]
    done = [event.result for event in events if isinstance(event, Done)]
    assert len({pid for _, pid, _ in done}) == 2
    assert {device for _, _, device in done} == {"cpu", "cuda:1"}
    assert os.getpid() not in {pid for _, pid, _ in done}


def test_here_and_a_rank_give_the_same_in_this_process(make):
    for place in (Here(), Ranks(1, 3)):
        events = run(place, make(), place.share(list(range(10))))
        assert {result[0] for event in events if isinstance(event, Done) for result in [event.result]} == {
            unit * unit for unit in (range(10) if isinstance(place, Here) else (1, 4, 7))
        }


def test_a_killed_worker_is_replaced_and_its_unit_done_again(make):
    said: list[str] = []
    place = Processes(("cpu", "cpu"), say=said.append)
    killed, rng = 0, random.Random(0)
    with place.open(make()) as pool:
        first = set(pool.worker_ids())

        def kill() -> None:
            nonlocal killed
            while killed < 8:
                time.sleep(rng.uniform(0, 0.06))
                try:
                    os.kill(rng.choice(pool.worker_ids()), signal.SIGKILL)
                except (ProcessLookupError, IndexError):
                    continue
                killed += 1

        thread = threading.Thread(target=kill)
        thread.start()
        found = results(pool.run(list(range(60))))
        thread.join()
        # Those that were killed at the end, with nothing left to do, are noticed by the next units.
        found_again = results(pool.run([5, 6]))
        assert not first & set(pool.worker_ids()) or killed < 8
    assert found == {unit: unit * unit for unit in range(60)}
    assert found_again == {0: 25, 1: 36}
    assert 1 <= len(said) <= 8
    assert all("was killed by SIGKILL; another takes its place" in line for line in said)


def test_what_a_worker_raises_arrives_after_the_units_of_the_others_are_done(make):
    done = []

    def listen(place) -> None:
        with place.open(make(bad=3)) as pool:
            for event in pool.run(list(range(10))):
                done.extend([event.index] if isinstance(event, Done) else [])

    with pytest.raises(InputError, match="unit 3 is bad"):
        listen(Processes(("cpu", "cpu")))
    assert set(done) >= {0, 1, 2}
    with pytest.raises(InputError, match="no such teacher"):
        run(Processes(("cpu",)), make(bad=-2), [1])


def test_a_unit_that_kills_every_worker_ends_the_run(make):
    place = Processes(("cpu", "cpu"), most_deaths=3)
    with pytest.raises(
        WorkerLostError,
        match=r"4 worker processes died .*was killed by SIGKILL.*Memory may be too small; use fewer --workers",
    ):
        run(place, make(deadly=2), list(range(4)))


def test_workers_end_with_the_pool_and_with_their_parent(make):
    with Processes(("cpu", "cpu")).open(make()) as pool:
        pids = pool.worker_ids()
        list(pool.run([1, 2]))
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_where_a_command_works():
    nothing: dict[str, str] = {}
    assert choose_place(device="cpu", environ=nothing) == Here("cpu")
    assert choose_place(1, device="cpu", environ=nothing) == Here("cpu")
    assert choose_place(environ=nothing) == Here("cpu")
    assert choose_place(environ=nothing, gpus=1) == Here("cuda:0")
    assert choose_place(3, environ=nothing, gpus=2).devices == ("cuda:0", "cuda:1", "cuda:0")
    three = choose_place(3, device="cpu", environ=nothing)
    assert isinstance(three, Processes)
    assert three.devices == ("cpu",) * 3
    torchrun = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}
    assert choose_place(device="cpu", environ=torchrun) == Ranks(3, 4, "cpu")
    assert choose_place(device="cuda:1", environ={**torchrun, "WORLD_SIZE": "1"}) == Here("cuda:1")
    assert choose_place(2, "local", "cpu", environ=torchrun) == RayCluster("local", 2, "cpu")
    with pytest.raises(InputError, match="torchrun started 4 processes already"):
        choose_place(2, device="cpu", environ=torchrun)
    with pytest.raises(InputError, match="must be at least 1"):
        choose_place(0, device="cpu", environ=nothing)


def test_shares_of_ranks_are_everything_once():
    shares = [Ranks(rank, 3).share(list(range(8))) for rank in range(3)]
    assert shares[1] == [1, 4, 7]
    assert sorted(unit for share in shares for unit in share) == list(range(8))


def test_a_rayless_installation_names_the_extra(monkeypatch, make):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'tinyvit\[cluster\]'"):
        run(RayCluster("local"), make(), [1])


def test_nothing_to_do_is_done(make):
    assert run(Here(), make(), []) == []
    assert run(Processes(("cpu",)), make(), []) == []


def test_an_address_where_nothing_answers_ends_with_a_sentence(make):
    with socket.socket() as reserved:  # bound and not listening: refused at once
        reserved.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{reserved.getsockname()[1]}"
        for form in (address, f"ray://{address}"):
            with pytest.raises(InputError, match=f"nothing answers at --ray {form} within 10 s"):
                RayCluster(form).open(make).__enter__()
