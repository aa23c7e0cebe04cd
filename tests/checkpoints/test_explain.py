"""What a merge would compute, told before it is made."""

from collections.abc import Sequence
from pathlib import Path

import torch
from tiny_checkpoints import (
    CONV,
    CONV_BIAS,
    IDS,
    IN_PROJ,
    OUT_NORM,
    SHAPES,
    TIME,
    TOKENS,
    open_merge,
    tiny_tensors,
    uniform,
    write,
    write_models,
    write_tiny_models,
)

from checkpoints.block_weights import BLOCKS
from checkpoints.explain import explain
from checkpoints.formula import parse_formula
from checkpoints.rounding import Precision

CARD = "[0, 0.1, 0.1, 0, 0.1, 0.1, 0, 0.1, 0.1, 0, 0, 0, 0, 0, 0.05, 0.05, 0.05, 0.05, 0.05, 0.05]"
FEW = (CONV, CONV_BIAS, TIME, OUT_NORM, TOKENS, IDS)


def told(folder: Path, formula: str, names: Sequence[str] = FEW, models: str = "ab", precision: str = "fp16") -> str:
    files = write_models(folder, {model: {name: tiny_tensors(model)[name] for name in names} for model in models})
    return explain(parse_formula(formula), open_merge(formula, files, Precision(precision)))


def table(text: str, function: str) -> dict[str, tuple[str, int]]:
    """{block: (weight, tensors)} of a function's table, which stands below its name and a line of headings."""
    _, found, rest = text.partition(f"\n\n{function}\nblock      weight  tensors\n")
    assert found, function
    rows = [line.split() for line in rest.split("\n\n")[0].split("\n")]
    assert [block for block, *_ in rows] == list(BLOCKS)
    return {block: (weight, int(count)) for block, weight, count in rows}


def test_the_whole_text_of_a_merge_by_blocks(tmp_path: Path) -> None:
    formula = f"mbw(a, b, {CARD})"
    weights = ["0", "0.1", "0.1", "0", "0.1", "0.1", "0", "0.1", "0.1", "0", "0", "0", "0", "0", *["0.05"] * 6]
    counts = {"BASE": 2, "IN00": 2, "OUT08": 1}
    rows = [f"{block:<7}{weight:>10}{counts.get(block, 0):>9}" for block, weight in zip(BLOCKS, weights, strict=True)]
    assert told(tmp_path, formula) == "\n".join(
        [
            f"formula: {formula}",
            "",
            "mbw, blocks=card",
            "block      weight  tensors",
            *rows,
            "",
            "1 tensor: copied from a",
            f"    {IDS} I64 [1, 7]",
            "",
            "2 tensors: a",
            f"    {TOKENS} F16 [20, 6], BASE 0",
            f"    {TIME} F16 [10, 6], BASE 0",
            "",
            "2 tensors: a + 0.1 * (b - a)",
            f"    {CONV_BIAS} F16 [8], IN00 0.1",
            f"    {CONV} F16 [8, 4, 3, 3], IN00 0.1",
            "",
            "1 tensor: a + 0.05 * (b - a)",
            f"    {OUT_NORM} F16 [5], OUT08 0.05",
        ]
    )


def test_without_block_weights_there_is_no_table_and_no_block(tmp_path: Path) -> None:
    assert told(tmp_path, "a - 0.5 * b", (CONV, IDS), precision="fp8").split("\n") == [
        "formula: a - 0.5 * b",
        "",
        "1 tensor: copied from a",
        f"    {IDS} I64 [1, 7]",
        "",
        "1 tensor: a - 0.5 * b",
        f"    {CONV} F8_E4M3 [8, 4, 3, 3]",
    ]


def test_each_function_has_its_table_and_each_tensor_its_weight_in_both(tmp_path: Path) -> None:
    text = told(tmp_path, f"mbw(weighted_sum(a, b, {CARD}), c, [{'0.5, ' * 19}1], blocks=supermerger_2025)", models="abc")
    inner, outer = table(text, "weighted_sum, blocks=card"), table(text, "mbw, blocks=supermerger_2025")
    assert inner["IN00"] == ("0.1", 2) and inner["BASE"] == ("0", 2) and inner["OUT08"] == ("0.05", 1)
    assert outer["IN00"] == ("0.5", 3) and outer["BASE"] == ("0.5", 1) and outer["OUT08"] == ("1", 1)
    assert sum(count for _, count in inner.values()) == sum(count for _, count in outer.values()) == 5
    assert f"    {TIME} F16 [10, 6], IN00 0.5, BASE 0\n" in text
    assert "\n2 tensors: a + 0.5 * (c - a)\n" in text


def test_every_tensor_is_told_once(tmp_path: Path) -> None:
    formula = f"restore_embeddings(mbw(a, b, {CARD}), c)"
    files = write_tiny_models(tmp_path, "abc", torch.float32)
    text = explain(parse_formula(formula), open_merge(formula, files))
    lines = [line.split()[0] for line in text.split("\n") if line.startswith("    ")]
    assert sorted(lines) == sorted([*SHAPES, IDS])
    group = next(part for part in text.split("\n\n") if part.startswith("4 tensors: c\n"))
    assert f"    {TOKENS} F16 [20, 6]" in group


def test_modules_of_a_lokr_show_where_they_land(tmp_path: Path) -> None:
    files = write_models(tmp_path, {"a": {name: tiny_tensors("a")[name] for name in (CONV, CONV_BIAS, IN_PROJ)}})
    factors = {"lora_unet_conv_in.lokr_w1": uniform(1, 2, 2), "lora_unet_conv_in.lokr_w2": uniform(2, 4, 2, 3, 3)}
    files["k"] = write(tmp_path / "k.safetensors", factors)
    text = explain(parse_formula("lokr(a, k, 0.5)"), open_merge("lokr(a, k, 0.5)", files))
    assert f"\n1 tensor: lokr(a, k, 0.5)\n    {CONV} F16 [8, 4, 3, 3]" in text
    assert f"\n2 tensors: a\n    {IN_PROJ} F16 [24, 8]\n    {CONV_BIAS} F16 [8]" in text


def test_what_is_copied_has_no_weight_and_counts_in_no_block(tmp_path: Path) -> None:
    formula = f"mbw(a, b, {CARD})"
    a, b = tiny_tensors("a"), tiny_tensors("b")
    extra = "model.diffusion_model.input_blocks.9.0.in_layers.0.weight"
    files = write_models(tmp_path, {"a": {CONV: a[CONV], OUT_NORM: a[OUT_NORM]}, "b": {CONV: b[CONV], extra: uniform(3, 4)}})
    text = explain(parse_formula(formula), open_merge(formula, files, unmatched="copy"))
    assert f"\n1 tensor: copied from a\n    {OUT_NORM} F16 [5]\n" in f"{text}\n"
    assert f"\n1 tensor: copied from b\n    {extra} F16 [4]\n" in f"{text}\n"
    assert {block: count for block, (_, count) in table(text, "mbw, blocks=card").items() if count} == {"IN00": 1}
