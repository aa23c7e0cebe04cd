"""8-bit blocks: bitsandbytes' code maps, codes that are exactly the nearest, and faulty versions refused."""

import json
from pathlib import Path

from repro.errors import StageError

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.block_quantizer import BlockQuantizer, code_map, refuse_faulty_bitsandbytes, rising_bits
from training.flat import BLOCK

SIGNED, UNSIGNED = BlockQuantizer(signed=True), BlockQuantizer(signed=False)
SMALLEST = 2.0**-149


def quantised_ratios(quantizer: BlockQuantizer, ratios: torch.Tensor) -> torch.Tensor:
    """Codes of numbers in [-1, 1], each in a block whose largest number is 1."""
    size = BLOCK - 1
    padded = torch.nn.functional.pad(ratios, (0, -len(ratios) % size)).view(-1, size)
    codes, magnitudes = quantizer.quantise(torch.nn.functional.pad(padded, (0, 1), value=1.0).flatten())
    assert torch.equal(magnitudes, torch.ones_like(magnitudes))
    return codes.view(-1, BLOCK)[:, :size].flatten()[: len(ratios)]


def searched(quantizer: BlockQuantizer, ratios: torch.Tensor) -> torch.Tensor:
    """The nearest code by searching the borders between codes."""
    return torch.bucketize(ratios, (quantizer.code[1:] + quantizer.code[:-1]) / 2).int()


@pytest.mark.golden
def test_the_signed_map_is_bitsandbytes(golden: Path) -> None:
    expected = json.loads((golden / "train" / "lion8bit_cpu.json").read_text())["qmap_signed_dynamic"]
    assert code_map(signed=True).tolist() == expected
    assert expected[SIGNED.zero] == 0.0


def test_the_unsigned_map_reaches_from_zero_to_one() -> None:
    """The faulty versions' ended at 0.0933."""
    code = code_map(signed=False)
    assert len(code) == 256
    assert code[0] == 0
    assert code[-1] == 1
    assert bool((code.diff() > 0).all())


@pytest.mark.parametrize("quantizer", [SIGNED, UNSIGNED], ids=["signed", "unsigned"])
def test_codes_are_right_next_to_every_border(quantizer: BlockQuantizer) -> None:
    """All float32 neighbours of the 255 borders and of the codes, and both ends of each entry of the table."""
    borders = (quantizer.code[1:] + quantizer.code[:-1]) / 2
    near = torch.cat([borders, quantizer.code[quantizer.code != 0]]).view(torch.int32)
    firsts = torch.arange(int(torch.ones(1).view(torch.int32)) >> 16, dtype=torch.int32) << 16
    bits = torch.cat([near - 1, near, near + 1, firsts, firsts + (1 << 16) - 1])
    ratios = torch.cat([bits.view(torch.float32), torch.tensor([0.0, SMALLEST])])
    ratios = torch.cat([ratios, -ratios]) if quantizer is SIGNED else ratios
    ratios = ratios[ratios.abs() <= 1]
    assert len(ratios) > 30_000
    assert torch.equal(quantised_ratios(quantizer, ratios), searched(quantizer, ratios))


@pytest.mark.parametrize("quantizer", [SIGNED, UNSIGNED], ids=["signed", "unsigned"])
def test_no_two_borders_share_an_entry_of_the_table(quantizer: BlockQuantizer) -> None:
    borders = (quantizer.code[1:] + quantizer.code[:-1]) / 2
    assert len((rising_bits(borders) >> 16).unique()) == 255


@given(values=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=BLOCK))
def test_a_code_is_the_nearest_and_never_changes_the_sign(values: list[float]) -> None:
    """Against distances in float64; any finite block, denormal numbers and the largest ones too."""
    block = torch.nn.functional.pad(torch.tensor(values), (0, BLOCK - len(values)))
    codes, magnitudes = SIGNED.quantise(block)
    assert magnitudes.item() == block.abs().max().item()
    assert bool((SIGNED.code[codes] * block >= 0).all())
    if magnitudes.item():
        ratios = (block / magnitudes).double().unsqueeze(1)
        distance = (ratios - SIGNED.code.double()).abs()
        assert bool((distance.gather(1, codes.long().unsqueeze(1)).flatten() <= distance.min(dim=1).values + 2**-25).all())
    restored = SIGNED.dequantise(codes.to(torch.uint8), magnitudes)
    assert bool(torch.isfinite(restored).all())
    assert bool((restored[block == 0] == 0).all())


def test_each_block_has_its_own_magnitude() -> None:
    blocks = torch.linspace(-1, 1, 3 * BLOCK) * torch.tensor([1e-30, 1.0, 1e30]).repeat_interleave(BLOCK)
    codes, magnitudes = SIGNED.quantise(blocks)
    assert torch.equal(magnitudes, blocks.view(3, BLOCK).abs().amax(1))
    restored = SIGNED.dequantise(codes.to(torch.uint8), magnitudes)
    assert bool(((restored - blocks).abs().view(3, BLOCK) <= 0.0071 * magnitudes.unsqueeze(1)).all())


@pytest.mark.parametrize("quantizer", [SIGNED, UNSIGNED], ids=["signed", "unsigned"])
def test_a_block_of_zeros_stays_zero(quantizer: BlockQuantizer) -> None:
    codes, magnitudes = quantizer.quantise(torch.zeros(BLOCK))
    assert codes.tolist() == [quantizer.zero] * BLOCK
    assert torch.equal(quantizer.dequantise(codes.to(torch.uint8), magnitudes), torch.zeros(BLOCK))


def install(folder: Path, version: str) -> Path:
    """What pip leaves of a bitsandbytes of some version."""
    metadata = folder / f"bitsandbytes-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: bitsandbytes\nVersion: {version}\n")
    return folder


@pytest.mark.parametrize("version", ["0.36.0", "0.38.0.post2", "0.40", "0.41.0"])
def test_versions_with_the_wrong_map_are_refused(version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(install(tmp_path, version))
    with pytest.raises(StageError, match=rf"bitsandbytes {version} is installed.*requirements\.lock"):
        code_map(signed=True)


@pytest.mark.parametrize("version", ["0.35.4", "0.41.1", "0.42.0", "0.50.2", "1.0.0.dev0"])
def test_other_versions_pass(version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(install(tmp_path, version))
    refuse_faulty_bitsandbytes()


def test_a_million_random_numbers_agree_with_a_search() -> None:
    """Numbers of all sizes, against numpy's search of the borders."""
    draw = torch.Generator().manual_seed(0)
    size = 4000 * BLOCK
    values = torch.randn(size, generator=draw) * 10 ** (-8 * torch.rand(size, generator=draw))
    codes, magnitudes = SIGNED.quantise(values)
    ratios = values.view(-1, BLOCK).numpy() / magnitudes.unsqueeze(1).numpy()
    borders = ((SIGNED.code[1:] + SIGNED.code[:-1]) / 2).numpy()
    assert np.array_equal(codes.numpy(), np.searchsorted(borders, ratios.flatten()))
