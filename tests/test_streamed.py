"""Compares batches that are read block by block with the same rows in memory."""

from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

from descent.batches.exact import exact
from descent.batches.parquet import ParquetBlocks, slices
from descent.batches.row_groups import row_groups
from descent.batches.share import Share
from descent.batches.streamed import StreamedBatches
from descent.errors import UserError


class Blocks:
    """Blocks whose rows are their row numbers; records which blocks were read."""

    def __init__(self, *rows: int) -> None:
        self.rows, self.asked = [*rows], list[int]()

    def read(self, block: int) -> tuple[Tensor, ...]:
        self.asked.append(block)
        first = sum(self.rows[:block])
        numbers = torch.arange(first, first + self.rows[block])
        return numbers.double().unsqueeze(1) * 2, numbers


SIZES = (7, 3, 0, 12, 5, 1, 9, 4)


def streamed(shuffle: bool = True, **given: Any) -> StreamedBatches:
    return StreamedBatches(Blocks(*SIZES), **({"size": 4, "shuffle": shuffle, "seed": 5, "chunk": 10} | given))


def numbers(batches: Iterable[tuple[Tensor, ...]]) -> list[list[int]]:
    return [batch[1].tolist() for batch in batches]


def chunks_by_hand(epoch: int) -> list[tuple[list[int], list[int]]]:
    """Returns the blocks and rows of each chunk of an epoch, by the documented rule."""
    ends = np.cumsum(SIZES)
    chunks: list[tuple[list[int], list[int]]] = []
    for block in np.random.default_rng((5, epoch, 0, 6, 0)).permutation(len(SIZES)).tolist():
        rows = [*range(ends[block] - SIZES[block], ends[block])]
        if rows and (not chunks or len(chunks[-1][1]) >= 10):
            chunks.append(([], []))
        if rows:
            chunks[-1][0].append(block)
            chunks[-1][1].extend(rows)
    for number, (_, rows) in enumerate(chunks):
        rows[:] = np.array(rows)[np.random.default_rng((5, epoch, 0, 7, number)).permutation(len(rows))].tolist()
    return chunks


def joined(parts: Iterable[list[int]]) -> list[int]:
    return [*chain.from_iterable(parts)]


def test_each_epoch_has_each_row_once_in_its_own_order() -> None:
    batches = streamed()
    orders = []
    for epoch in range(3):
        batches.set_epoch(epoch)
        found = numbers(batches)
        assert [len(batch) for batch in found] == [4] * 10 + [1] and len(batches) == 11
        orders.append(joined(found))
        assert orders[-1] == joined(rows for _, rows in chunks_by_hand(epoch)) and sorted(orders[-1]) == list(
            range(sum(SIZES))
        )
    assert len({tuple(order) for order in orders}) == 3
    for x, number in batches:
        assert torch.equal(x.squeeze(1), number * 2.0)


def test_without_shuffle_the_rows_keep_their_order_for_any_chunk_size() -> None:
    for chunk in (1, 10, 100):
        assert joined(numbers(streamed(shuffle=False, chunk=chunk))) == list(range(sum(SIZES)))


@pytest.mark.parametrize("size", [1, 4, 13, 41, 100])
def test_resuming_at_a_position_reads_no_block_before_it(size: int) -> None:
    whole = streamed(size=size)
    whole.set_epoch(2)
    expected = numbers(whole)
    for position in range(len(expected)):
        resumed, note = exact(streamed(size=size, seed=None), seed=5)
        assert note is None
        resumed.load_state_dict({"epoch": 2, "position": position})
        resumed.set_epoch(2)
        assert numbers(resumed) == expected[position:]
        chunks, seen = chunks_by_hand(2), min(position * size, sum(SIZES))
        ends = np.cumsum([len(rows) for _, rows in chunks])
        left = [blocks for (blocks, _), end in zip(chunks, ends, strict=True) if end > seen]
        assert resumed.blocks.asked == joined(left)


def test_each_block_is_read_once_an_epoch() -> None:
    batches = streamed()
    list(batches)
    assert sorted(batches.blocks.asked) == [0, 1, 3, 4, 5, 6, 7]  # type: ignore[attr-defined]


def test_take_returns_the_next_batches() -> None:
    batches, expected = streamed(), numbers(streamed())
    assert numbers([*batches.take(3), *batches.take(8)]) == expected
    one = streamed(size=100)
    assert sorted(joined(numbers(one.take(2)))) == sorted([*range(sum(SIZES))] * 2)


def test_repeating_an_epoch_draws_a_new_order() -> None:
    batches = streamed()
    first, second = joined(numbers(batches)), joined(numbers(batches))
    assert first != second and sorted(first) == sorted(second)


def test_processes_share_out_each_batch() -> None:
    shares = []
    for rank in range(3):
        batches = streamed()
        batches.share = Share(rank, 3)
        shares.append([(part, batches.share.own) for part in (batch[1].tolist() for batch in batches)])
    for whole, *parts in zip(numbers(streamed()), *shares, strict=True):
        assert [part for part, own in parts if own] == [whole[rank::3] for rank in range(3) if rank < len(whole)]
        assert all(part == whole[:1] for part, own in parts if not own)


def test_blocks_without_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="blocks must have rows, got none"):
        StreamedBatches(Blocks(0, 0), size=3)


@pytest.fixture
def frame() -> pl.DataFrame:
    rng, rows = np.random.default_rng(0), 1000
    columns = {"a": rng.normal(size=rows), "b": rng.normal(size=rows).astype(np.float32)}
    more = {"n": rng.integers(0, 9, rows), "yes": rng.random(rows) < 0.5, "text": ["x"] * rows}
    vectors = pl.Series(rng.normal(size=(rows, 3)), dtype=pl.Array(pl.Float64, 3))
    return pl.DataFrame(columns | more | {"v": vectors})


@pytest.mark.parametrize("compression", ["snappy", "zstd", "uncompressed"])
@pytest.mark.parametrize("statistics", [True, False, "full"])
def test_row_groups_are_read_from_the_footer(
    compression: Any, statistics: Any, frame: pl.DataFrame, tmp_path: Path
) -> None:
    file = tmp_path / "a.parquet"
    for size, expected in ((300, [300, 300, 300, 100]), (1000, [1000]), (7, [7] * 142 + [6])):
        frame.write_parquet(file, row_group_size=size, compression=compression, statistics=statistics)
        assert row_groups(file) == expected


def test_a_damaged_footer_is_refused(frame: pl.DataFrame, tmp_path: Path) -> None:
    file, whole = tmp_path / "a.parquet", tmp_path / "b.parquet"
    frame.write_parquet(whole)
    data = whole.read_bytes()
    length = int.from_bytes(data[-8:-4], "little")
    for broken in (b"", b"PAR1", data[:-1], data[:-8] + b"\xff" * 4 + b"PAR1", data[: -8 - length] + data[-8:]):
        file.write_bytes(broken)
        with pytest.raises(UserError, match=f"{file} must be a Parquet file that can be read: "):
            list(slices([file], 3))
    rng = np.random.default_rng(0)
    for _ in range(50):  # random damage raises no other error
        footer = np.frombuffer(data[-8 - length : -8], dtype=np.uint8).copy()
        footer[rng.integers(0, length, 20)] = rng.integers(0, 256, 20)
        file.write_bytes(data[: -8 - length] + footer.tobytes() + data[-8:])
        try:
            assert all(part.rows > 0 for part in slices([file], 3))
        except UserError as error:
            assert "its footer is damaged" in str(error)


def test_small_row_groups_are_merged_and_large_ones_split(
    frame: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.parquet"
    monkeypatch.setattr("descent.batches.parquet.FEWEST", 300)
    monkeypatch.setattr("descent.batches.parquet.MOST", 600)
    for group, expected in ((40, [120] * 8 + [40]), (500, [167, 166, 167] * 2), (200, [200] * 5)):
        frame.write_parquet(file, row_group_size=group)
        found = [*slices([file], 3)]
        assert sorted(part.rows for part in found) == sorted(expected)
        assert [part.first for part in found] == [0, *np.cumsum([part.rows for part in found])][:-1]


def test_columns_become_tensors(frame: pl.DataFrame, tmp_path: Path) -> None:
    (tmp_path / "other.txt").touch()
    for part, rows in enumerate((frame[:600], frame[600:])):
        rows.write_parquet(tmp_path / f"part{part}.parquet", row_group_size=128)
    for path in (tmp_path, tmp_path / "*.parquet", f"{tmp_path}/**/part[0-9].parquet"):
        blocks = ParquetBlocks(path, [["b", "a"], "n", "yes", "v"], dtype=torch.float64)
        assert sum(blocks.rows) == 1000
        x, n, yes, v = map(torch.cat, zip(*map(blocks.read, range(len(blocks.rows))), strict=True))
        assert torch.equal(x, torch.tensor(frame.select("b", "a").to_numpy().astype(np.float64)))
        assert torch.equal(n, torch.tensor(frame["n"].to_list())) and torch.equal(
            yes, torch.tensor(frame["yes"].to_list())
        )
        assert torch.equal(v, torch.tensor(frame["v"].to_list(), dtype=torch.float64))
    assert ParquetBlocks(tmp_path / "part0.parquet", ["a"]).read(0)[0].dtype == torch.float32


CANNOT: list[tuple[Callable[[Path], Any], str]] = [
    (
        lambda d: ParquetBlocks(d / "none.parquet", ["a"]),
        "path must be an existing file, a directory or a pattern of .parquet fil",
    ),
    (
        lambda d: ParquetBlocks(d / "*.csv", ["a"]),
        "path must be an existing file, a directory or a pattern of .parquet files, got",
    ),
    (lambda d: ParquetBlocks(d, ["a", "q"]), "part.parquet must have the columns a, q; it has no q"),
    (lambda d: ParquetBlocks(d, ["text"]).read(0), "column text must be numbers or numeric arrays of one length, got"),
    (lambda d: ParquetBlocks(d, ["gap"]).read(0), "must have no missing cell, got 1 in rows 1 to 1,000"),
]


@pytest.mark.parametrize(("use", "words"), CANNOT)
def test_unreadable_paths_and_columns_are_refused(
    use: Callable[[Path], Any], words: str, frame: pl.DataFrame, tmp_path: Path
) -> None:
    gap = pl.Series([None, *range(1, 1000)])
    frame.with_columns(gap=gap).write_parquet(tmp_path / "part.parquet")
    with pytest.raises(UserError) as error:
        use(tmp_path)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_file_that_shrinks_is_refused(frame: pl.DataFrame, tmp_path: Path) -> None:
    file = tmp_path / "part.parquet"
    frame.write_parquet(file)
    blocks = ParquetBlocks(file, ["a"])
    frame[:10].write_parquet(file)
    with pytest.raises(UserError, match="must not change while it is read"):
        blocks.read(0)
