"""Models behind the page: loaded at their first use, one resident model at a time, and never taken from a user."""

import threading
import time
from collections.abc import Callable
from typing import Any

from app.chat.engine import BackgroundEngine, EngineChoice, Engines, EngineStatus, only
from retrieval.errors import MissingError


def until(true: Callable[[], Any]) -> None:
    for _ in range(1000):
        if true():
            return
        time.sleep(0.005)
    raise AssertionError("this did not become true within five seconds")


class Model:
    """A model that remembers whether it was closed."""

    alive = 0
    most = 0

    def __init__(self) -> None:
        Model.alive += 1
        Model.most = max(Model.most, Model.alive)

    def close(self) -> None:
        Model.alive -= 1


def engines(*names: str) -> Engines:
    Model.alive = Model.most = 0
    return Engines(
        [EngineChoice(name, name.title(), BackgroundEngine(lambda name=name: (Model(), name))) for name in names]
    )


def test_nothing_is_loaded_before_it_is_needed() -> None:
    loaded = []
    engine = BackgroundEngine(lambda: (loaded.append(1) or object(), "tiny"))
    assert engine.status == EngineStatus("idle")
    with engine.use() as model:
        assert model is None and loaded == []
    engine.start()
    engine.start()
    until(lambda: engine.status == EngineStatus("ready", "tiny"))
    assert loaded == [1]


def test_what_is_missing_is_said_and_a_second_start_tries_again() -> None:
    there = threading.Event()

    def load() -> tuple[object, str]:
        if not there.is_set():
            raise MissingError("there is no model; put one there")
        return object(), "tiny"

    engine = BackgroundEngine(load)
    engine.start()
    until(lambda: engine.status.state == "failed")
    assert engine.status.detail == "there is no model; put one there"
    there.set()
    engine.start()
    until(lambda: engine.status.state == "ready")


def test_an_error_that_nobody_foresaw_shows_nothing_of_itself() -> None:
    def load() -> tuple[object, str]:
        raise RuntimeError("secret detail")

    engine = BackgroundEngine(load)
    engine.start()
    until(lambda: engine.status.state == "failed")
    assert "RuntimeError" in engine.status.detail and "secret" not in engine.status.detail


def test_one_resident_model_is_loaded_at_a_time() -> None:
    made = engines("small", "large")
    for name in ("small", "large", "small"):
        made.start(name)
        until(lambda name=name: made.status_of(name).state == "ready")
    assert Model.most == 1 and made.status_of("large").state == "idle"


def test_a_model_in_use_is_not_taken_away() -> None:
    made = engines("small", "large")
    made.start("small")
    until(lambda: made.status_of("small").state == "ready")
    with made.use("small") as model:
        assert model is not None
        made.start("large")
        time.sleep(0.1)
        assert Model.alive == 1 and made.status_of("large").state == "loading"
        with made.use("small") as second:
            assert second is None, "on its way out it takes no new work"
    until(lambda: made.status_of("large").state == "ready")
    assert Model.most == 1


def test_a_server_beside_a_resident_model_stays() -> None:
    remote = BackgroundEngine(lambda: (object(), "remote"))
    small = BackgroundEngine(lambda: (Model(), "small"))
    made = Engines([EngineChoice("small", "", small), EngineChoice("server", "", remote, resident=False)])
    for name in ("small", "server"):
        made.start(name)
        until(lambda name=name: made.status_of(name).state == "ready")
    assert made.status_of("small").state == "ready"


def test_the_default_is_the_first_that_can_be_used() -> None:
    usable = BackgroundEngine(lambda: (object(), "b"))
    made = Engines([EngineChoice("a", "A", None, "no GPU was found"), EngineChoice("b", "B", usable)])
    assert made.default == "b" and made.status_of("a") == EngineStatus("failed", "no GPU was found")
    made.start("a")
    with made.use("a") as model:
        assert model is None
    made.start()
    until(lambda: made.status.state == "ready")
    assert made.choice("nonsense") == made.choice("b")
    assert Engines(made.choices, default="a").default == "a" and Engines(made.choices, default="z").default == "b"
    assert Engines([]).status.state == "failed" and only(usable).default == "default"


def test_the_end_of_the_process_waits_for_what_is_being_loaded() -> None:
    begun, loaded = threading.Event(), threading.Event()

    def load() -> tuple[object, str]:
        begun.set()
        time.sleep(0.3)
        loaded.set()
        return object(), "slow"

    engines = only(BackgroundEngine(load))
    engines.close()  # nothing was begun: nothing to wait for
    engines.start()
    assert begun.wait(5)
    engines.close()
    assert loaded.is_set() and engines.status.state == "ready"
