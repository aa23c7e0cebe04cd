"""Make the sample's annotation models again: draw their pictures, train tagger, scorers and text reader, write their folders.

    python stages/make_sample_taggers.py --art data/art --output models/sample-taggers

One thread, some minutes; the same packages (extra `sample` in pyproject.toml) give the same bytes. Their pictures are of the
taught and the base model's characters, but none of data/sample. Sub-folders: wd (tagger), aesthetic, quality (the head, and
clip in it), text.
"""

from pathlib import Path

from repro.errors import run_stage
from repro.hashing import hash_tree, refuse_foreign_folder, sha256_json, write_manifest
from repro.outputs import whole_folder

from sample import reader, scorers, tagger
from sample.command import art_and_output
from sample.tagger_int8 import export_tagger, write_tags
from sample.tagger_lettering import WORDS
from sample.tagger_pictures import LabelledPicture, draw_pictures, learning_posts, vocabulary, wordless

# The scorers and the reader learn little, and from one picture in so many.
SCORED_EVERY, READ_EVERY = 2, 4


def write_tagger(folder: Path, pictures: list[LabelledPicture]) -> int:
    """Train the tagger and write its folder; how many tags it knows."""
    names = vocabulary(pictures)
    network = tagger.train(pictures, names, tagger.Settings())
    export_tagger(network, names, tagger.calibration_views(pictures), folder / "model.onnx")
    write_tags(names, folder / "selected_tags.csv")
    return len(names.names)


def main(arguments: list[str]) -> None:
    args = art_and_output(__doc__, arguments)
    refuse_foreign_folder(args.output)

    pictures = draw_pictures(learning_posts(), args.art)
    with whole_folder(args.output) as folder:
        for name in ("wd", "aesthetic", "quality", "text"):
            (folder / name).mkdir()
        tags = write_tagger(folder / "wd", pictures)
        scorers.write_aesthetic(folder / "aesthetic", pictures[::SCORED_EVERY], scorers.Settings())
        scorers.write_quality(folder / "quality", pictures[::SCORED_EVERY], scorers.Settings())
        reader.write_reader(folder / "text", reader.train(wordless(pictures)[::READ_EVERY], reader.Settings()))
        write_manifest(folder, sha256_json(hash_tree(folder)))
    print(f"{args.output}: {len(pictures)} pictures learnt; {tags} tags, two scores, {len(WORDS)} words to read")


if __name__ == "__main__":
    run_stage(main)
