"""File, environment, flags: later wins; whatever is not understood is refused with its place and its name."""

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest

from app.settings import MAX_FILE_BYTES, SECTIONS, EngineSettings, Settings, load_settings
from app.workspace import collection_name, default_workspace
from retrieval.embedding.load import EmbeddingSettings
from retrieval.errors import MissingError, UsageError
from retrieval.splitting import SplitSettings


def resolve(
    workspace: Path, toml: str | bytes = "", environment: dict[str, str] | None = None, **flags: Any
) -> Settings:
    if toml:
        data = toml if isinstance(toml, bytes) else toml.encode()
        (workspace / "fathom.toml").write_bytes(data)
    return load_settings(workspace, environment=environment or {}, flags=flags)


def test_without_a_file_every_default_is_the_parts_own(tmp_path: Path) -> None:
    settings = resolve(tmp_path)
    assert settings.splitting == SplitSettings()
    assert settings.embedding.model == EmbeddingSettings().model
    assert settings.collections == tmp_path / "collections"


def test_models_are_cached_in_the_workspace_unless_told_otherwise(tmp_path: Path) -> None:
    assert resolve(tmp_path).embedding.cache == tmp_path / "cache"
    assert resolve(tmp_path, '[embedding]\ncache = "/elsewhere"').embedding.cache == Path("/elsewhere")


def test_flags_beat_variables_beat_the_file(tmp_path: Path) -> None:
    toml = '[search]\nk = 3\nmode = "dense"\n[embedding]\nmodel = "a"\nthreads = 1'
    variables = {"FATHOM_SEARCH_K": "4", "FATHOM_EMBEDDING_MODEL": "b", "FATHOM_SPLITTING_PASSAGE_TOKENS": "100"}
    settings = resolve(tmp_path, toml, variables, search={"k": 5, "mode": None})
    assert settings.search.k == 5
    assert settings.search.mode == "dense"
    assert (settings.embedding.model, settings.embedding.threads) == ("b", 1)
    assert settings.splitting.passage_tokens == 100


def test_only_what_was_chosen_is_passed_on(tmp_path: Path) -> None:
    assert resolve(tmp_path).search.per_query() == {}
    chosen = resolve(tmp_path, "[search]\nk = 3\ndense_weight = 0.0").search
    assert (chosen.per_query(), chosen.per_collection()) == ({"k": 3}, {"dense_weight": 0.0})


def test_what_the_collection_takes_is_what_the_settings_offer() -> None:
    from app.settings import SearchChoices
    from retrieval.collection import SearchSettings

    known = {item.name for item in fields(SearchSettings)}
    assert set(SearchChoices(dense_weight=0.5, depth=5).per_collection()) == known


WRONG = {
    "unknown section": ("[serach]\nk = 1", ["fathom.toml", "serach", "did you mean 'search'"]),
    "unknown key": ("[search]\nkk = 1", ["fathom.toml", "[search]", "kk"]),
    "close key": ("[embedding]\nmodle = 'x'", ["modle", "did you mean 'model'"]),
    "top-level key": ("k = 1", ["unknown section 'k'"]),
    "section that is a value": ("search = 1", ["must be a section", "[search]"]),
    "text for a number": ('[search]\nk = "5"', ["[search] k", "integer"]),
    "truth for a number": ("[search]\nk = true", ["[search] k", "integer"]),
    "fraction for a number": ("[search]\nk = 1.5", ["[search] k", "integer"]),
    "number for a text": ("[embedding]\nmodel = 5", ["[embedding] model", "string"]),
    "not one of the words": ('[search]\nmode = "fuzzy"', ["[search] mode", "lexical", "hybrid"]),
    "a date": ("[search]\nk = 2020-01-01", ["[search] k", "date"]),
    "out of range": ("[search]\nk = 0", ["[search]", "from 1 to 1000", "0"]),
    "share above 1": ("[search]\ndense_weight = 1.5", ["dense_weight", "from 0 to 1"]),
    "engine without an address": ('[engine]\nname = "server"', ["[engine]", "needs an address", "http://"]),
    "engine of two kinds": ('[engine]\nname = "embedded"\nurl = "http://h/v1"', ["[engine]", "address of a server"]),
    "no such engine": ('[engine]\nname = "cloud"', ["[engine] name", "embedded", "server"]),
    "no time at all": ("[engine]\ntotal_seconds = 0", ["total_seconds is at least 0.1"]),
    "key in a file": ('[engine]\napi_key = "sk-1"', ["[engine] api_key", "FATHOM_ENGINE_API_KEY in the environment"]),
    "port": ("[chat]\nport = 99999", ["[chat]", "65535"]),
    "not TOML": ("[search\nk = 1", ["fathom.toml", "not valid TOML", "line 1"]),
    "twice": ("[search]\nk = 1\nk = 2\n[chat]", ["not valid TOML", "line 3"]),
    "not UTF-8": ("[search] # é".encode("latin-1"), ["fathom.toml", "UTF-8", "byte 11"]),
    "too large": (b"#" * (MAX_FILE_BYTES + 1), ["fathom.toml", "larger"]),
    "nested deeply": ("a = " + "[" * 20_000, ["fathom.toml"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_refused_with_place_and_name(tmp_path: Path, case: str) -> None:
    toml, words = WRONG[case]
    with pytest.raises(UsageError) as caught:
        resolve(tmp_path, toml)
    for word in words:
        assert word in str(caught.value)


def test_an_address_makes_the_engine_a_server(tmp_path: Path) -> None:
    assert resolve(tmp_path).engine.name == "embedded"
    variables = {"FATHOM_ENGINE_URL": "http://127.0.0.1:8000/v1", "FATHOM_ENGINE_MODEL": "org/model"}
    engine = resolve(tmp_path, "[engine]\nthreads = 2\nconcurrency = 9\nqueue_seconds = 5", variables).engine
    assert (engine.name, engine.model) == ("server", Path("org/model"))
    assert engine.chosen_loading() == {"concurrency": 9} and engine.chosen_limits() == {"queue": 5.0}
    assert resolve(tmp_path, "[engine]\nthreads = 2\nconcurrency = 9").engine.chosen_loading() == {"threads": 2}


def test_the_key_of_a_server_is_shown_nowhere(tmp_path: Path) -> None:
    settings = resolve(tmp_path, "", {"FATHOM_ENGINE_API_KEY": "sk-secret", "FATHOM_ENGINE_URL": "http://h/v1"})
    assert settings.engine.api_key is not None and settings.engine.api_key.get_secret_value() == "sk-secret"
    shown = f"{settings} {settings.engine.api_key} {asdict(settings)} {json.dumps(asdict(settings), default=str)}"
    assert "sk-secret" not in shown
    with pytest.raises(UsageError) as caught:
        resolve(tmp_path, '[engine]\napi_key = "sk-secret"')
    assert "sk-secret" not in str(caught.value)


def test_time_limits_are_those_the_engines_have() -> None:
    from app.engines.generating import TimeLimits

    chosen = EngineSettings(queue_seconds=1, first_token_seconds=2, total_seconds=3).chosen_limits()
    assert TimeLimits(**chosen) == TimeLimits(1, 2, 3)


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    assert resolve(tmp_path, b"\xef\xbb\xbf[search]\nk = 2").search.k == 2


@pytest.mark.parametrize(
    ("name", "text", "word"),
    [
        ("FATHOM_SEARCH_KK", "1", "unknown setting 'kk'"),
        ("FATHOM_SEARCH_K", "many", "integer"),
        ("FATHOM_SEARCH_MODE", "x", "lexical"),
        ("FATHOM_CHAT_PORT", "0", "65535"),
    ],
)
def test_a_wrong_variable_is_refused(tmp_path: Path, name: str, text: str, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        resolve(tmp_path, "", {name: text})


def test_variables_of_others_are_left_alone(tmp_path: Path) -> None:
    resolve(tmp_path, "", {"FATHOM_SHARED_DATA": "/x", "FATHOM_HOME": "/y", "SEARCH_K": "z", "FATHOM_SEARCH": "?"})


def test_a_file_that_cannot_be_read_is_an_error_and_not_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "fathom.toml").mkdir()
    with pytest.raises(MissingError, match="fathom.toml cannot be read"):
        resolve(tmp_path)


def test_a_workspace_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w").touch()
    with pytest.raises(UsageError, match="is a file"):
        resolve(tmp_path / "w")


def test_the_workspace_comes_from_the_variable_or_the_checkout(tmp_path: Path) -> None:
    assert default_workspace({"FATHOM_HOME": str(tmp_path)}) == tmp_path
    root = Path(__file__).resolve().parents[2]
    assert default_workspace({}) == default_workspace({"FATHOM_HOME": ""}) == root / "data" / "workspace"


def test_every_section_is_settable() -> None:
    assert set(SECTIONS) == {item.name for item in fields(Settings)} - {"workspace", "profile", "chosen"}


@pytest.mark.parametrize("name", ["default", "a", "法律-文件_2.1", "Ünïcode", "x" * 60])
def test_names_of_any_script_are_taken(name: str) -> None:
    assert collection_name(name) == name


def test_one_spelling_is_one_folder() -> None:
    assert collection_name("u\u0308") == collection_name("\u00fc")


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".x", "a/b", "../a", "a\\b", "-x", "a b", "a\n", "a\0", "x" * 61, "a.", "😀"]
)
def test_names_that_are_paths_or_worse_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="cannot name a collection"):
        collection_name(name)
