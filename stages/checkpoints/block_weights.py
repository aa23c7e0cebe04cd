"""Merge block weights of SDXL: which of the 20 numbers a tensor takes.

Order of the numbers, as in supermerger's README: BASE, IN00..IN08, M00, OUT00..OUT08. The tables are read from the top:
the first prefix that a tensor's single-file name begins with decides; {n} stands for the number of its block.
supermerger of December 2023 (72291d5), which Gamma's card used, leaves time_embed, label_emb and three tensors of the second
text encoder unmerged; with BASE 0, as on the card, that is what `CARD` does. supermerger of 2025 gives them IN00.
"""

import re

BLOCKS = ("BASE", *(f"IN0{n}" for n in range(9)), "M00", *(f"OUT0{n}" for n in range(9)))

CARD = {
    "model.diffusion_model.input_blocks.{n}.": "IN{n}",
    "model.diffusion_model.middle_block.": "M00",
    "model.diffusion_model.output_blocks.{n}.": "OUT{n}",
    "model.diffusion_model.out.": "OUT08",
    "": "BASE",  # text encoders, VAE, time_embed, label_emb
}
SUPERMERGER_2025 = {
    "model.diffusion_model.time_embed.": "IN00",
    "model.diffusion_model.label_emb.": "IN00",
    **CARD,
}
TABLES = {"card": CARD, "supermerger_2025": SUPERMERGER_2025}


def block_of(name: str, table: str) -> str | None:
    """The block of a tensor by single-file name; None where its block has no number (an architecture with more blocks)."""
    for prefix, block in TABLES[table].items():
        found = re.match(re.escape(prefix).replace(r"\{n\}", r"(\d+)"), name)
        if found:
            block = block.format(n=f"{int(found[1]):02d}") if found.groups() else block
            return block if block in BLOCKS else None
    return None
