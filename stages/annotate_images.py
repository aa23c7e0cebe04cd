"""Ask models what the kept posts' pictures show: tags and rating, aesthetic and quality scores, and the text in them.

    python stages/annotate_images.py --posts data/kept --models models/taggers --output data/annotations

Asks those of the parameters' `annotate` that are not null; with none it writes a folder that says so. Pictures are read from
`runtime.image_root` (the environment variable IMAGE_ROOT wins) and checked against the index that the posts carry. The text
reader is asked only of pictures that have one of annotate.text.only_tags, by the metadata or by the tagger (probability 0.35
or more). The same bytes come out of any number of worker processes (`runtime.processes`; with `device: cuda` they share out
the GPUs that torch sees), and of a run that was killed and started again.

The card of SoteDiffusion tells of 350 GPU hours for 5.6 million pictures. So what a model said of a picture is kept in
state/annotate/, by the picture's content and all that decides the answer, also when the stage is done. With a batch_size of 1
another model, more pictures or other thresholds of the captions ask nothing twice; with a larger one answers are kept in
portions of some dozens of batches, and a portion that has a picture more or less is asked of again. It is not an output, and
may be deleted (`make clean`). Every model is opened once before the first picture, so that mistakes are told at once.
"""

import os
from argparse import Namespace
from pathlib import Path

from repro.command import parameters, stage_parser
from repro.errors import run_stage
from repro.hashing import manifest_revision, refuse_foreign_folder
from repro.params import Params
from repro.state import STATE_ROOT, fingerprint, stage_state

from booru.captioning.annotations import TAGS, TEXT
from tagging.annotations import (
    KeptImages,
    asked_of_the_reader,
    kept_images,
    refuse_unknown_tags,
    shard_frames,
    tagger_vocabulary,
    write_annotations,
)
from tagging.answers import Answers
from tagging.describing import describe_all
from tagging.model import AskedModel, asked_models

STAGE = "annotate"


def described(asked: AskedModel, images: KeptImages, params: Params) -> Answers:
    """What the model says of the images, in files of its own state."""
    image_root = Path(os.environ.get("IMAGE_ROOT", params.runtime.image_root))
    parts = asked.determining_parts()
    with stage_state(STAGE, parts, STATE_ROOT / STAGE / fingerprint(**parts)) as state:
        return describe_all(images.rows, asked, image_root, state, params.runtime.processes)


def annotate(args: Namespace, params: Params) -> None:
    models = {asked.kind: asked for asked in asked_models(params.annotate, args.models, params.device)}
    for asked in models.values():
        asked.digests()  # a file that is missing is told of before hours of work, not after
    images = kept_images(args.posts)
    vocabulary = tagger_vocabulary(models[TAGS]) if TAGS in models else None
    if TEXT in models:
        refuse_unknown_tags(args.posts, params.annotate.text, vocabulary)
    for asked in models.values():
        asked.try_opening()
    found: dict[str, tuple[KeptImages, Answers]] = {}
    for kind, asked in models.items():
        wanted = images
        if kind == TEXT:
            tagged = shard_frames(TAGS, *found[TAGS]) if TAGS in models else ()
            wanted = images.only(asked_of_the_reader(args.posts, params.annotate.text, vocabulary, tagged))
        found[kind] = wanted, described(asked, wanted, params)
        print(f"annotate: {kind} of {wanted.rows.height} of {images.rows.height} pictures")
    shards = [(models[kind], shard_frames(kind, *answers)) for kind, answers in found.items()]
    write_annotations(args.output, images, shards, manifest_revision(args.posts))
    print(f"annotate: {', '.join(found) or 'no model is asked'}, in {args.output}")


def main(arguments: list[str]) -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--posts", type=Path, required=True, help="folder of the filter stage")
    parser.add_argument("--models", type=Path, help="folder of the models (default: annotate.folder)")
    parser.add_argument("--output", type=Path, required=True, help="folder of annotations to write")
    args = parser.parse_args(arguments)
    params = parameters(args)
    args.models = args.models or Path(params.annotate.folder)
    refuse_foreign_folder(args.output)
    annotate(args, params)


if __name__ == "__main__":
    run_stage(main)
