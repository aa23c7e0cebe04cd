"""Choose which characters are evaluated and which of their pictures stand for them, and encode these with CCIP.

    python stages/choose_references.py --source data/metadata --captions data/captions \\
        --characters reports/characters.json --image-index data/image_index --ccip models/ccip --output data/references \\
        --list data/references.json

The characters are those with enough training pictures (reports/characters.json, which the caption stage writes). Their
reference pictures are chosen from --source, a folder of the ingest stage: posts that show the character alone and pass the
filter's rules. Or --source is a references.json, which lists them, the first that are fit being taken. Of either kind a
reference is in the image index, readable, at least evaluate.references.min_side pixels wide and high and, with
evaluate.references.unseen, not trained on. Ratings, blocked tags, near-duplicates and who is shown cannot be told of listed
posts, which have no metadata here: for these the list's author answers.

Characters without enough references are listed as skipped, with the reason. Features are kept below `state/references/` as
they come, so a run that was killed goes on from there; `runtime.processes` workers make them, the same bytes by any number.
The archives' folder is `runtime.image_root`, or the environment variable IMAGE_ROOT.
"""

import os
import re
from argparse import ArgumentParser, Namespace
from collections import Counter
from pathlib import Path

from repro.command import parameters, stage_parser
from repro.errors import StageError, run_stage
from repro.hashing import refuse_foreign_folder
from repro.outputs import write_json
from repro.params import Params, References
from repro.state import forget_state, stage_state

import polars as pl

from booru.images.archives import ImageIndex
from ccip.encoder import FEATURE_MODEL, CcipEncoder
from ccip.features import determining_parts, encode_pictures
from ccip.reference_folder import write_reference_folder
from ccip.sources import reference_sources
from characters.choosing import choose_references
from characters.listed import listed_references
from characters.references import ReferenceList, read_references, references_content
from characters.training import TrainingPictures, characters_to_evaluate, read_training_counts

SOURCE_HELP = (
    "folder of the ingest stage, or a references.json, whose author answers for its posts' ratings and tags:"
    " evaluate.references.ratings and filter.blocked_tags cannot be applied to them"
)


def references_parser() -> ArgumentParser:
    parser = stage_parser(__doc__)
    parser.add_argument("--source", type=Path, required=True, help=SOURCE_HELP)
    parser.add_argument("--captions", type=Path, required=True, help="folder of the caption stage")
    parser.add_argument("--characters", type=Path, required=True, help="characters.json of the caption stage")
    parser.add_argument("--image-index", type=Path, required=True, help="folder of index_images")
    parser.add_argument("--ccip", type=Path, required=True, help="folder of the CCIP encoder (model_feat.onnx, ...)")
    parser.add_argument("--output", type=Path, required=True, help="folder to write: characters, pictures, features")
    parser.add_argument("--list", type=Path, required=True, help="file to write: the characters alone, all that drawing needs")
    return parser


def references_of(args: Namespace, params: Params, training: TrainingPictures, index: ImageIndex) -> ReferenceList:
    """The characters to evaluate with their reference posts, from whichever kind of source.

    Raises:
        StageError: no character is left; says which parameters to loosen.
    """
    settings = params.evaluate.references
    counts = read_training_counts(args.characters)
    wanted = characters_to_evaluate(counts, settings)
    if args.source.is_dir():
        references = choose_references(
            args.source, wanted, counts, settings, params.filter, args.captions, training, index, params.seed
        )
    else:
        references = listed_references(read_references(args.source), wanted, counts, settings, training, index)
    if not references.characters:
        raise StageError(f"{args.source}: no character is left, {skipped_text(references)}; {advice(args.source, settings)}")
    return references


def advice(source: Path, settings: References) -> str:
    """How more characters get enough references from such a source."""
    lower = "lower evaluate.references.pictures or min_side"
    more = lower if source.is_dir() else f"list more posts of characters with enough training pictures, or {lower}"
    return more + (", or set evaluate.references.unseen to false" if settings.unseen else "")


def skipped_text(references: ReferenceList) -> str:
    """How many characters are skipped, and how many of them for what, the most frequent reason first."""
    kinds = Counter(reason_without_counts(one.reason) for one in references.skipped)
    ranked = sorted(kinds.items(), key=lambda pair: (-pair[1], pair[0]))
    told = "; ".join(f"{count} for {kind}" for kind, count in ranked)
    return f"{len(references.skipped)} skipped" + (f" ({told})" if told else "")


def reason_without_counts(reason: str) -> str:
    """A reason as characters with other counts have it too: `3 pictures ... (left out: 2 unreadable)` without 3 and 2."""
    return re.sub("(?<=[:,] )[0-9]+ ", "", re.sub("^[0-9]+", "too few", reason))


def main(arguments: list[str]) -> None:
    args = references_parser().parse_args(arguments)
    params = parameters(args)
    refuse_foreign_folder(args.output)
    image_root = Path(os.environ.get("IMAGE_ROOT", params.runtime.image_root))
    encoder = CcipEncoder(args.ccip, params.evaluate.ccip.sha256)
    index = ImageIndex(args.image_index)
    training = TrainingPictures(args.captions, index)
    references = references_of(args, params, training, index)
    sources = reference_sources(references.characters, args.image_index, image_root)
    posts = pl.Series([post for reference in references.characters for post in reference.posts], dtype=pl.Int64)
    trained = training.seen(posts, pl.Series([source.sha256 for source in sources])).tolist()
    with stage_state("references", determining_parts(encoder, sources)) as state:
        features = encode_pictures(args.ccip, sources, params.runtime.processes, "reference pictures", state / "features")
        write_reference_folder(args.output, references, sources, features, encoder.digests[FEATURE_MODEL], trained)
        write_json(args.list, references_content(references.characters, references.skipped))
        forget_state(state)
    print(
        f"references: {len(references.characters)} characters with {params.evaluate.references.pictures} references each"
        f" ({sum(trained)} of these pictures were trained on), {skipped_text(references)}"
    )


if __name__ == "__main__":
    run_stage(main)
