"""Packed sources and their planned shares → one fixed order of rows on disk, the same whenever it is read.

It knows blocks and shares; no text, no model and no trainer.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from adapt.corpus.packing import Blocks, Row
from adapt.corpus.sealed_folder import read_array, read_manifest, write_folder
from adapt.corpus.shares import Shares, largest, require_possible
from adapt.recipe import Mixture, Mixtures
from retrieval.errors import DamagedError, MissingError, UsageError

KIND = "an order"
SOURCES, NUMBERS = "sources.npy", "numbers.npy"
DECILES = 10


def mix(
    sources: Mapping[str, Blocks], shares: Mixtures, *, tokens: int | None, epochs: float, seed: int, folder: Path
) -> "Order":
    """Draw up the order in which rows are trained on and write it to `folder`.

    The next row is always of the source that is furthest behind its planned sum of tokens. With K sources that have a
    share, a sum is then never more than (K − 1) / K blocks above its plan nor (K − 1)² / K below it, whatever the
    lengths of the rows: the plans of the K add up to one block more than they have, so the furthest behind lacks at
    least 1 / K of a block and gets at most one; and what one lacks the others have too much of. Shares of a part with D
    tokens hence keep within (K − 1) · block / D of the plan: within 1 % in every tenth from 1,000 blocks on for two
    sources, from 2,000 for three. Rows of a source come in a new random order each time it is begun again.

    `tokens` None is as many as possible with no source read more than `epochs` times (a row that was begun is ended);
    otherwise the order has at most that many, less than one block fewer. Raises UsageError for a mixture that these
    texts cannot give.
    """
    counts = {name: blocks.tokens for name, blocks in sources.items()}
    blocks = {source.block for source in sources.values()}
    if len(blocks) > 1:
        raise UsageError(f"sources are packed in blocks of {sorted(blocks)} tokens; pack all with the same")
    known = Shares(shares)
    wanted = largest(counts, shares, epochs) if tokens is None else tokens
    require_possible(counts, shares, epochs, wanted)
    block = blocks.pop()
    if wanted < block:
        raise UsageError(f"{wanted:,} tokens are less than one block of {block:,}; give more or a smaller block")
    names = known.names
    chosen, numbers, realised = _draw([sources[name] for name in names], known, wanted, epochs, seed)

    def fill(new: Path) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        np.save(new / SOURCES, chosen, allow_pickle=False)
        np.save(new / NUMBERS, numbers, allow_pickle=False)
        facts = {
            "block": block,
            "rows": len(chosen),
            "tokens": int(realised.sum()),
            "wanted": wanted,
            "epochs": epochs,
            "seed": seed,
            "sources": {name: sources[name].sha256 for name in names},
            "tokens_by_source": dict(zip(names, realised.tolist(), strict=True)),
            "shares": {
                name: share.model_dump() if isinstance(share, Mixture) else share for name, share in shares.items()
            },
        }
        places = {name: sources[name].folder.absolute() for name in names}
        more = {
            "folders": {name: str(place) for name, place in places.items()},
            # The whole workspace may be moved, or mounted elsewhere on another node.
            "folders_from_here": {name: os.path.relpath(place, folder.absolute()) for name, place in places.items()},
        }
        return facts, more

    write_folder(folder, KIND, fill)
    return Order.open(folder)


class Order:
    """Rows of several sources in the order they are trained on. `sha256` is of the rows and all that decided them."""

    def __init__(self, folder: Path, manifest: Mapping[str, Any], blocks: Mapping[str, Blocks]) -> None:
        """Use `open`, which checks what is there."""
        self.folder, self.sha256 = folder, str(manifest["sha256"])
        self.facts: Mapping[str, Any] = manifest["facts"]
        """`wanted` tokens, `epochs`, `seed`, `shares`, `tokens_by_source`, hashes of `sources`."""
        self.sources = tuple(self.facts["sources"])
        self.blocks: Mapping[str, Blocks] = dict(blocks)
        self.block, self.rows, self.tokens = (int(self.facts[key]) for key in ("block", "rows", "tokens"))
        self._chosen, self._numbers = read_array(folder / SOURCES), read_array(folder / NUMBERS)
        self._by_number = [self.blocks[name] for name in self.sources]
        lengths = [source.lengths() for source in self._by_number]
        self._lengths = np.empty(len(self._chosen), dtype=np.int64)
        for number, length in enumerate(lengths):
            mine = self._chosen == number
            if mine.any() and int(self._numbers[mine].max()) >= len(length):
                raise DamagedError(f"{folder} names rows that its sources lack; remove the folder and mix again")
            self._lengths[mine] = length[self._numbers[mine]]
        if len(self._chosen) != self.rows or int(self._lengths.sum()) != self.tokens:
            raise DamagedError(f"the rows of {folder} do not fit its sources; remove the folder and mix again")
        self._shares = Shares({name: _read_share(share) for name, share in self.facts["shares"].items()})

    @classmethod
    def open(cls, folder: Path) -> "Order":
        """Open an order and its sources, every hash checked but those of the tokens.

        Raises MissingError, DamagedError; also where a source is no longer what the order was made of.
        """
        manifest = read_manifest(folder, KIND)
        blocks = {}
        for name, sha256 in manifest["facts"]["sources"].items():
            try:
                beside = folder / manifest["more"]["folders_from_here"][name]
                place = beside if beside.is_dir() else Path(manifest["more"]["folders"][name])
            except (KeyError, TypeError) as error:
                raise DamagedError(f"{folder} does not say where its sources lie; remove it, mix again") from error
            try:
                blocks[name] = Blocks.open(place)
            except MissingError as error:
                raise MissingError(f"the order in {folder} needs the blocks of '{name}': {error}") from error
            if blocks[name].sha256 != sha256:
                raise DamagedError(
                    f"{place} is not what the order in {folder} was made of; remove the order, mix again"
                )
        return cls(folder, manifest, blocks)

    def verify(self) -> None:
        """Hash the tokens of every source too. Raises DamagedError."""
        for blocks in self._by_number:
            blocks.verify()

    def __len__(self) -> int:
        return self.rows

    def row(self, number: int) -> Row:
        """Row `number` of the training; `source` counts as in `sources`. Raises IndexError."""
        if not 0 <= number < self.rows:
            raise IndexError(f"row {number} of {self.rows}")
        source = int(self._chosen[number])
        return replace(self._by_number[source].row(int(self._numbers[number])), source=source)

    def lengths(self) -> np.ndarray:
        """int64 (rows,): tokens of each row, to plan batches without reading any."""
        return self._lengths.copy()

    def row_sources(self) -> np.ndarray:
        """int64 (rows,): the source of each row."""
        return self._chosen.astype(np.int64)

    def row_numbers(self) -> np.ndarray:
        """int64 (rows,): the number of each row in its source; a row that comes again has the same."""
        return self._numbers.astype(np.int64)

    @property
    def times_read(self) -> dict[str, float]:
        """How often each source is read in all."""
        return {
            name: tokens / self.blocks[name].tokens if self.blocks[name].tokens else 0.0
            for name, tokens in self.facts["tokens_by_source"].items()
        }

    @property
    def largest_id(self) -> int:
        """The largest token there may be: the model needs more rows than this."""
        return max(int(blocks.facts["largest_id"]) for blocks in self._by_number)

    def curve(self, parts: int = 50) -> list[tuple[int, dict[str, float], dict[str, float]]]:
        """For drawing: the training in so many parts of equally many tokens, as (tokens until its end, planned share of
        each source in it, realised share). A row that lies across a border counts on both sides by its tokens."""
        ends = np.concatenate(([0], np.cumsum(self._lengths)))
        borders = np.linspace(0, self.tokens, parts + 1)
        wanted = int(self.facts["wanted"])
        planned = [self._shares.until(border / wanted) for border in borders]
        realised = {}
        for number, name in enumerate(self.sources):
            sums = np.concatenate(([0], np.cumsum(np.where(self._chosen == number, self._lengths, 0))))
            realised[name] = np.interp(borders, ends, sums)
        points = []
        for part in range(parts):
            width = borders[part + 1] - borders[part]
            plan = {n: (planned[part + 1][n] - planned[part][n]) * wanted / width for n in self.sources}
            real = {n: float(realised[n][part + 1] - realised[n][part]) / width for n in self.sources}
            points.append((round(borders[part + 1]), plan, real))
        return points

    @property
    def planned(self) -> list[dict[str, float]]:
        """Planned share of each source in every tenth of the tokens."""
        return [plan for _, plan, _ in self.curve(DECILES)]

    @property
    def realised(self) -> list[dict[str, float]]:
        """Realised share of each source in every tenth of the tokens."""
        return [real for _, _, real in self.curve(DECILES)]

    @property
    def largest_error(self) -> float:
        """The largest difference between planned and realised share of a source in a tenth of the tokens."""
        return max(abs(plan[n] - real[n]) for _, plan, real in self.curve(DECILES) for n in self.sources)

    @property
    def error_bound(self) -> float:
        """What `largest_error` can be at most, by the argument in `mix`: rows cannot be divided."""
        active = sum(share > 0 for share in self._shares.until(1.0).values())
        return (active - 1) * self.block / (self.tokens / DECILES)


def _draw(
    sources: list[Blocks], shares: Shares, wanted: int, epochs: float, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Source and number of each row, and the tokens of each source in all."""
    lengths = [source.lengths() for source in sources]
    limits = [source.tokens * epochs for source in sources]
    block = sources[0].block
    random = [np.random.default_rng([seed, number]) for number in range(len(sources))]
    epoch_order = [generator.permutation(len(length)) for generator, length in zip(random, lengths, strict=True)]
    place = [0] * len(sources)
    used = np.zeros(len(sources), dtype=np.int64)
    chosen: list[int] = []
    numbers: list[int] = []
    done = 0
    while done < wanted:
        plan = np.array(list(shares.until(min(1.0, (done + block) / wanted)).values())) * wanted
        behind = plan - used
        open_sources = [n for n in range(len(sources)) if used[n] < limits[n] - 0.5 and plan[n] > 0]
        if not open_sources:
            break
        source = max(open_sources, key=lambda n: behind[n])
        if place[source] == len(epoch_order[source]):
            epoch_order[source], place[source] = random[source].permutation(len(lengths[source])), 0
        row = int(epoch_order[source][place[source]])
        length = int(lengths[source][row])
        if done + length > wanted:
            break
        place[source] += 1
        chosen.append(source)
        numbers.append(row)
        used[source] += length
        done += length
    return np.array(chosen, dtype=np.int16), np.array(numbers, dtype=np.int64), used


def _read_share(share: Any) -> Any:
    return "rest" if share == "rest" else Mixture(**share)
