from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plisse.bitstream.tensors import coding_name, decode_tensor, encode_tensor
from plisse.core.stored import RAW_DTYPES, Grid, Raw, Stored, Trellis, Uniform, raw, to_bfloat16
from plisse.errors import FormatError, InputError

ONE = Uniform(np.array([1.0], np.float32))
TESTED = settings(
    max_examples=int(os.environ.get("PLISSE_EXAMPLES", "80")),
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)


def assert_same(stored: Stored, back: Stored) -> None:
    assert back.shape == stored.shape
    assert np.array_equal(back.symbols.reshape(-1), stored.symbols.reshape(-1))
    assert type(back.grid) is type(stored.grid)
    if isinstance(stored.grid, Uniform) and isinstance(back.grid, Uniform):
        assert back.grid.group == stored.grid.group
        assert back.grid.scale.dtype == np.float32
        assert np.array_equal(back.grid.scale, stored.grid.scale)
        assert (back.grid.zero_point is None) == (stored.grid.zero_point is None)
        if stored.grid.zero_point is not None and back.grid.zero_point is not None:
            assert np.array_equal(back.grid.zero_point, stored.grid.zero_point)
    else:
        assert back.grid == stored.grid


@st.composite
def grids(draw: st.DrawFn, shape: tuple[int, ...]) -> Grid:
    kind = draw(st.sampled_from(["one", "channel", "group", "trellis"]))
    random = np.random.default_rng(draw(st.integers(0, 9)))
    if kind == "trellis":
        return Trellis(float(to_bfloat16(random.random() + 0.01)))
    group = draw(st.integers(1, 40)) if kind == "group" else 0
    channels, width = (shape[0] if shape else 1), int(np.prod(shape[1:]))
    units = {"one": (1,), "channel": (channels,), "group": (channels, -(-width // max(group, 1)))}[kind]
    zero = random.integers(-9, 9, units).astype(np.int32) if draw(st.booleans()) else None
    return Uniform(to_bfloat16(np.exp(random.normal(size=units))), zero, group)


@st.composite
def tensors(draw: st.DrawFn) -> Stored:
    shape = tuple(draw(st.lists(st.integers(0, 12), max_size=4)))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    spread = draw(st.sampled_from([0.0, 0.1, 0.7, 5.0, 60.0, 9e3, 4e8]))
    centre = draw(st.sampled_from([0, 0, 0, 8, -300, 10**9]))
    values = np.rint(random.laplace(centre, spread or 1e-9, shape))
    symbols = np.clip(values, -(2**31), 2**31 - 1).astype(np.int32)
    return Stored(symbols, shape, draw(grids(shape)))


@TESTED
@given(tensors())
def test_symbols_shape_and_grid_come_back(stored: Stored) -> None:
    data = encode_tensor(stored)
    assert_same(stored, decode_tensor(data))
    assert encode_tensor(stored) == data


@TESTED
@given(
    st.sampled_from(sorted(RAW_DTYPES)),
    st.lists(st.integers(0, 9), max_size=3),
    st.booleans(),
    st.integers(0, 99),
)
def test_raw_tensors_come_back(dtype: str, shape: list[int], smooth: bool, seed: int) -> None:
    random = np.random.default_rng(seed)
    held = RAW_DTYPES[dtype]
    if smooth and "float" in dtype:
        stored = raw(random.normal(1, 0.1, shape).astype(np.float32), dtype)
    else:
        edges = np.iinfo(held)
        top = 2 if dtype == "bool" else edges.max
        symbols = random.integers(0 if top == 2 else edges.min, top, shape, held, endpoint=top != 2)
        stored = Stored(np.asarray(symbols), tuple(shape), Raw(dtype))
    back = decode_tensor(encode_tensor(stored))
    assert_same(stored, back)
    assert back.symbols.dtype == held


@pytest.mark.parametrize(
    "shape", [(40, 300), (24, 16, 3, 3), (1, 30, 20), (9, 7, 17, 17), (5000, 1), (2, 3000)]
)
@pytest.mark.parametrize("spread", [0.3, 2.0, 40.0, 5e3])
def test_structured_tensors_come_back(shape: tuple[int, ...], spread: float) -> None:
    random = np.random.default_rng(3)
    rows = np.exp(random.normal(size=(shape[0], *[1] * (len(shape) - 1))))
    symbols = np.rint(random.normal(size=shape) * rows * spread).astype(np.int32)
    stored = Stored(symbols, shape, ONE)
    assert_same(stored, decode_tensor(encode_tensor(stored)))


def test_each_coding_is_chosen_where_it_is_the_shortest() -> None:
    random = np.random.default_rng(1)

    def chosen(symbols: np.ndarray) -> str:
        return coding_name(encode_tensor(Stored(symbols.astype(np.int32), symbols.shape, ONE)))

    assert chosen(np.full((30, 50), -4)) == "constant"
    assert chosen(np.arange(512) * -3) == "constant"
    assert chosen(random.integers(0, 256, 999)) == "raw"
    assert chosen(np.rint(random.laplace(0, 3, 4000))) == "laplace"
    assert chosen(np.rint(random.normal(0, 9, 4000))) == "gauss"
    assert chosen(random.choice([-7, 0, 1, 90], p=[0.1, 0.4, 0.3, 0.2], size=4000)) == "categorical"
    rows = np.exp(random.normal(size=(80, 1)))
    assert chosen(np.rint(random.normal(size=(80, 90)) * rows)) == "contexts"
    assert coding_name(encode_tensor(raw(random.normal(size=900).astype(np.float32)))) == "planes"
    assert coding_name(encode_tensor(Stored(np.zeros(0, np.int32), (0, 3), ONE))) == "raw"


def test_small_tensors_cost_almost_no_overhead() -> None:
    random = np.random.default_rng(2)
    assert len(encode_tensor(raw(random.normal(size=16).astype(np.float32), "float16"))) <= 32 + 4
    symbols = np.rint(random.normal(0, 40, 16)).astype(np.int32)
    assert len(encode_tensor(Stored(symbols, (16,), ONE))) <= 16 + 7
    assert len(encode_tensor(raw(np.array(5), "int64"))) == 3


def test_a_huge_constant_tensor_takes_no_memory() -> None:
    stored = Stored(np.broadcast_to(np.int32(3), (46000, 46000)), (46000, 46000), ONE)
    data = bytes.fromhex("27b0e702b0e702803f0006")
    back = decode_tensor(data)
    assert back.shape == stored.shape
    assert back.symbols.strides == (0, 0)
    assert back.symbols[7, 9] == 3
    scales = decode_tensor(bytes.fromhex("29ffffffff070100040080fe010000"))
    assert isinstance(scales.grid, Uniform)
    assert scales.grid.scale.strides == (0,)


def test_channel_scales_are_coded_below_their_raw_size() -> None:
    random = np.random.default_rng(5)
    scale = to_bfloat16(np.exp(random.normal(-4, 0.1, 1024)))
    data = encode_tensor(Stored(np.zeros((1024, 4), np.int32), (1024, 4), Uniform(scale)))
    assert len(data) < 0.55 * 2 * 1024


@pytest.mark.parametrize(
    "stored",
    [
        Stored(np.zeros(3, np.int32), (4,), ONE),
        Stored(np.zeros(3, np.float32), (3,), ONE),
        Stored(np.full(3, 2**31), (3,), ONE),
        Stored(np.zeros(3, np.int32), (3,), Uniform(np.array([0.1], np.float32))),
        Stored(np.zeros((3, 2), np.int32), (3, 2), Uniform(np.ones(2, np.float32))),
        Stored(np.zeros(3, np.int32), (3,), Raw("float64")),
        Stored(np.zeros(3, np.int32), (3,), Raw("float16")),
        Stored(np.zeros(1, np.int32), (1,) * 16, ONE),
    ],
)
def test_what_does_not_belong_together_is_refused(stored: Stored) -> None:
    with pytest.raises(InputError):
        encode_tensor(stored)


def _decodes_or_refuses(data: bytes) -> None:
    offset = 0
    try:
        stored = decode_tensor(data)
        assert coding_name(data)
        assert stored.symbols.shape == stored.shape
    except FormatError as error:
        offset = error.offset
    assert 0 <= offset <= len(data)


def _records() -> list[bytes]:
    random = np.random.default_rng(8)
    rows = np.exp(random.normal(size=(16, 1, 1, 1)))
    conv = np.rint(random.normal(size=(16, 8, 3, 3)) * rows).astype(np.int32)
    scale, zero = to_bfloat16(np.exp(random.normal(size=16))), random.integers(0, 9, 16).astype(np.int32)
    return [
        encode_tensor(Stored(conv, conv.shape, Uniform(scale, zero))),
        encode_tensor(Stored(conv * 900, conv.shape, Trellis(0.5))),
        encode_tensor(raw(conv[0, :4].astype(np.float32) + 0.3)),
        encode_tensor(Stored(conv[:, 0, 0, 0], (16,), ONE)),
        encode_tensor(Stored(np.rint(random.laplace(0, 2, 300)).astype(np.int32), (300,), ONE)),
    ]


def test_truncated_and_flipped_records_are_refused_or_decode() -> None:
    random = np.random.default_rng(9)
    for record in _records():
        for cut in range(0, len(record), max(len(record) // 60, 1)):
            _decodes_or_refuses(record[:cut])
        for _ in range(120):
            flipped = bytearray(record)
            for _ in range(int(random.integers(1, 4))):
                where = min(int(random.exponential(12)), len(record) - 1)
                flipped[where] ^= 1 << int(random.integers(8))
            _decodes_or_refuses(bytes(flipped))


def test_a_truncated_record_never_equals_the_whole() -> None:
    record = _records()[0]
    whole = decode_tensor(record)
    for cut in range(len(record) - 40, len(record)):
        try:
            part = decode_tensor(record[:cut])
        except FormatError:
            continue
        assert not np.array_equal(part.symbols, whole.symbols)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.binary(max_size=80))
def test_garbage_is_refused_or_stays_in_bounds(data: bytes) -> None:
    _decodes_or_refuses(data)


@pytest.mark.parametrize("coding", range(8))
def test_garbage_after_a_good_head_is_refused_or_stays_in_bounds(coding: int) -> None:
    random = np.random.default_rng(coding)
    for head in (
        "272828803f",
        "171e803f",
        "4708040303803f",
        "2b4a4a0000",
        "200909",
        "2905050105",
        "1440",
    ):
        for _ in range(50):
            first = bytes([coding | (8 * int(random.integers(2))), 0])
            body = random.integers(0, 256, int(random.integers(0, 60)), np.uint8).tobytes()
            _decodes_or_refuses(bytes.fromhex(head) + first + body)
            _decodes_or_refuses(bytes.fromhex(head) + first + bytes([2, 3]) + body)


def test_a_count_out_of_proportion_is_refused() -> None:
    head = bytes.fromhex("17ffffff07803f")  # 2^24 - 1 values
    with pytest.raises(FormatError, match="per byte"):
        decode_tensor(head + bytes([3, 0, 1, 1, 9, 0, 128]) + bytes(100))
    with pytest.raises(FormatError, match="shape"):
        decode_tensor(bytes.fromhex("27ffffffff07ffffffff07803f0002"))
