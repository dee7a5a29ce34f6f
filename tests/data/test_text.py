from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from plisse.data.text import (
    TextBatches,
    load_tokenizer,
    numbers,
    pack_tokenizer,
    pad,
    pad_number,
    read_table,
    tokenize,
)
from plisse.errors import InputError


def tokenizer_json() -> bytes:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[PAD]", "[UNK]", "a", "cat", "dog", "##s"]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer.to_str().encode()


def test_quotes_are_ordinary(tmp_path: Path) -> None:
    text = 'id\tsentence\tlabel\n1\the said "no\t1\n2\t""\t0\n\n'
    (tmp_path / "dev.tsv.gz").write_bytes(gzip.compress(text.encode()))
    assert read_table(tmp_path, "dev", ("label", "sentence")) == [("1", 'he said "no'), ("0", '""')]


def test_plain_files_with_mark_and_carriage_returns(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_bytes("\ufeffsentence\tlabel\r\nhi\t1\r\n".encode())
    assert read_table(tmp_path, "train", ("sentence", "label")) == [("hi", "1")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sentence\nhi\n", "without column 'label'"),
        ("sentence\tlabel\nhi\t1\nho\n", "line 3 .* 1 cells"),
        ("sentence\tlabel\n", "without rows"),
    ],
)
def test_bad_tables_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "dev.tsv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_table(tmp_path, "dev", ("sentence", "label"))


def test_truncated_gzip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dev.tsv.gz").write_bytes(gzip.compress(b"sentence\tlabel\n" * 50)[:-20])
    with pytest.raises(InputError, match="cannot be read"):
        read_table(tmp_path, "dev", ("sentence",))


@pytest.mark.parametrize("cell", ["", "six", "nan", "5.1", "-1"])
def test_numbers_must_be_in_range(cell: str) -> None:
    with pytest.raises(InputError, match=r"in row 3.*0 to 5"):
        numbers(["2.5", cell], 0, 5)


def test_a_packed_tokenizer_says_the_same() -> None:
    data = tokenizer_json()
    packed = pack_tokenizer(data)
    assert packed["vocabulary.txt"] == b"[PAD]\n[UNK]\na\ncat\ndog\n##s"
    tokenizer = load_tokenizer(packed)
    assert tokenize(tokenizer, ["a cats", "dog x"]) == [[2, 3, 5], [4, 1]]
    assert json.loads(tokenizer.to_str()) == json.loads(data)
    assert pad_number(tokenizer) == 0


def test_a_vocabulary_with_holes_stays_in_one_part() -> None:
    data = json.loads(tokenizer_json())
    data["model"]["vocab"]["dog"] = 40
    packed = pack_tokenizer(json.dumps(data).encode())
    assert list(packed) == ["tokenizer.json"]
    assert tokenize(load_tokenizer(packed), ["dog"]) == [[40]]


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b"\xff", b'{"model": {"type": "WordPiece"}}'])
def test_broken_tokenizers_are_refused(data: bytes) -> None:
    with pytest.raises(InputError):
        load_tokenizer({"tokenizer.json": data})
    with pytest.raises(InputError):
        load_tokenizer({"tokenizer.json": data, "vocabulary.txt": b"a\nb"})
    with pytest.raises(InputError, match="without a tokenizer"):
        load_tokenizer({})


def test_long_sentences_are_cut() -> None:
    tokenizer = load_tokenizer(pack_tokenizer(tokenizer_json()))
    assert tokenize(tokenizer, ["a a a a a a"], max_tokens=3) == [[2, 2, 2]]


def test_padding_uses_the_filler_and_the_mask_tells() -> None:
    batch = pad([[5, 6, 7], [8]], filler=1)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 1, 1]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["token_type_ids"].tolist() == [[0, 0, 0], [0, 0, 0]]
    assert list(pad([[1]], ("input_ids",))) == ["input_ids"]


def pairs(n: int = 45) -> tuple[list[list[int]], list[list[int]], np.ndarray]:
    """Pairs whose first tokens and target all tell their number."""
    draw = np.random.default_rng(0)
    first, second = ([[i] * int(k) for i, k in enumerate(draw.integers(1, 20, n), 1)] for _ in range(2))
    return first, second, np.arange(1, n + 1, dtype=np.float32)


@pytest.mark.parametrize("shuffle", [False, True])
def test_pairs_stay_aligned_and_an_epoch_has_each_once(shuffle: bool) -> None:
    first, second, targets = pairs()
    batches = TextBatches((first, second), targets, 8, shuffle=shuffle)
    assert len(batches) == 6
    for epoch in range(2):
        seen = []
        for i in range(6):
            batch = batches[6 * epoch + i]
            starts = batch.inputs["input_ids"][:, 0].tolist()
            half = len(starts) // 2
            assert starts[:half] == starts[half:] == batch.target.tolist()
            seen += starts[:half]
        assert sorted(seen) == list(range(1, 46))


def test_text_batches_by_index_are_fixed_and_epochs_differ() -> None:
    first, _, targets = pairs()
    batches = TextBatches((first,), targets, 8, shuffle=True)
    assert torch.equal(batches[7].inputs["input_ids"], batches[7].inputs["input_ids"])
    epochs = [torch.cat([batches[6 * e + i].target for i in range(6)]) for e in range(2)]
    assert not torch.equal(epochs[0], epochs[1])


def test_batches_without_shuffling_are_sorted_by_length() -> None:
    first, second, targets = pairs()
    widths = [b.inputs["input_ids"].shape[1] for b in TextBatches((first, second), targets, 8)]
    assert widths == sorted(widths)


def test_parts_must_agree() -> None:
    with pytest.raises(InputError, match="rows"):
        TextBatches(([[1]], [[1], [2]]))
    with pytest.raises(InputError, match="rows"):
        TextBatches(([],))
