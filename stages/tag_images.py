"""Tag a folder of pictures with a WD tagger: a caption file beside each picture, as sd-scripts writes them.

    python stages/tag_images.py --images FOLDER --model FOLDER --recursive --remove_underscore --use_rating_tags \\
        --character_tags_first --character_tag_expand --append_tags --character_threshold 0.5

The options have the names and meanings of sd-scripts' finetune/tag_images_by_wd14_tagger.py, and so do the captions, but for
these: --append_tags appends nothing twice, however often it is run; --tag_replacement and characters work as they did until
2026-01. --preprocess names the revision whose pictures' sizes, and so whose tags, are wanted. --model is a folder with
model.onnx and selected_tags.csv.

Captions are written as the pictures are done. An interrupted run goes on with the same command, without computing a picture
twice, also with other thresholds or words. Pictures that cannot be read, or whose caption cannot be written, are all named at
the end on stderr, with exit code 2.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import get_args

from repro.errors import StageError, run_stage
from repro.hashing import sha256_json
from repro.params import USUAL_THRESHOLD
from repro.state import forget_state, stage_state

from tagging.model_files import TAGGER_TAGS
from tagging.wd_captions import TagCaptions, TagOptions
from tagging.wd_folder import (
    FLOOR,
    TagTask,
    caption_files,
    chunk_file,
    determining_parts,
    find_pictures,
    kept_probabilities,
    make_chunks,
    tagged,
    write_caption,
)
from tagging.wd_preprocess import Revision
from tagging.wd_tagger import read_vocabulary

SWITCHES = {
    "remove_underscore": "write spaces for underscores, except in emoticons",
    "use_rating_tags": "open captions with the rating",
    "use_rating_tags_as_last_tag": "end captions with the rating, unless they open with it",
    "character_tags_first": "characters before the other tags",
    "character_tag_expand": "write name_(series) as name, series",
    "append_tags": "keep what a caption file says, and append the tags that it lacks",
}
WORDS = {
    "undesired_tags": "tags to leave out, as they would be written",
    "always_first_tags": "tags to move to the front where they occur",
    "tag_replacement": "tag,other;tag,other: names to write for others; \\, and \\; stand for themselves",
}


def count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("expected 1 or more")
    return number


def share(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError("expected a probability, 0 to 1")
    return number


def option_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of the pictures")
    parser.add_argument("--model", type=Path, required=True, help="the tagger's folder")
    parser.add_argument(
        "--preprocess",
        choices=get_args(Revision),
        default="kohya-2024-04",
        help="how pictures are prepared (default: %(default)s)",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--processes", type=count, default=1, help="worker processes; they share out the GPUs (default: 1)")
    parser.add_argument("--batch_size", type=count, default=1, help="pictures at once (default: 1); decides last bits")
    parser.add_argument("--recursive", action="store_true", help="the pictures of sub-folders too")
    parser.add_argument("--caption_extension", default=".txt", help="of the caption files (default: %(default)s)")
    parser.add_argument("--caption_separator", default=TagOptions.caption_separator, help="between tags (default: '%(default)s')")
    parser.add_argument("--thresh", type=share, default=USUAL_THRESHOLD, help="least probability of a tag (default: %(default)s)")
    parser.add_argument("--general_threshold", type=share, help="of general tags (default: --thresh)")
    parser.add_argument("--character_threshold", type=share, help="of characters (default: --thresh)")
    for name, meaning in SWITCHES.items():
        parser.add_argument(f"--{name}", action="store_true", help=meaning)
    for name, meaning in WORDS.items():
        parser.add_argument(f"--{name}", default="", help=meaning)
    parser.add_argument("--frequency_tags", action="store_true", help="print how often each tag was found")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def tag_options(args: argparse.Namespace) -> TagOptions:
    """What the command line says of captions."""
    return TagOptions(
        general_threshold=args.thresh if args.general_threshold is None else args.general_threshold,
        character_threshold=args.thresh if args.character_threshold is None else args.character_threshold,
        caption_separator=args.caption_separator,
        **{name: getattr(args, name) for name in (*SWITCHES, *WORDS)},
    )


def device_parts(device: str) -> dict[str, str]:
    """What of the device decides bits."""
    if device == "cpu":
        return {"device": device}
    from repro.devices import device_identity  # late: it takes torch

    return device_identity(device)


def refuse_losses(lost: dict[str, str], pictures: int) -> None:
    """Name each of the lost pictures, {path: why}.

    Raises:
        StageError: there are any.
    """
    if lost:
        print("".join(f"{path}: {reason}\n" for path, reason in sorted(lost.items())), end="", file=sys.stderr)
        raise StageError(
            f"{len(lost)} of {pictures} pictures got no caption, the others have theirs; mend or remove those above and run again"
        )


def tag_folder(args: argparse.Namespace, options: TagOptions, kept: Path, floor: float) -> None:
    pictures = find_pictures(args.images, args.recursive)
    files = dict(zip(pictures, caption_files(pictures, args.caption_extension), strict=True))
    vocabulary = read_vocabulary(args.model / TAGGER_TAGS)
    captions, found, lost = TagCaptions(vocabulary, options), Counter(), {}
    how = (args.model, args.preprocess, args.device, args.batch_size, floor, args.images)
    tasks = [TagTask(*how, chunk, chunk_file(chunk, kept)) for chunk in make_chunks(pictures)]
    for task in tagged(tasks, args.processes):
        for picture, known in zip(task.pictures, kept_probabilities(task.output, len(vocabulary.names)), strict=True):
            tags = [] if isinstance(known, str) else captions.tags(known)
            why = (
                known if isinstance(known, str) else write_caption(args.images / files[picture], captions, tags, args.append_tags)
            )
            if why:
                lost[picture.path] = why
            found.update(tags)
    if args.frequency_tags:
        print("".join(f"{tag}: {times}\n" for tag, times in sorted(found.items(), key=lambda one: (-one[1], one[0]))), end="")
    refuse_losses(lost, len(pictures))
    print(f"{args.images}: {len(pictures)} pictures tagged")


def main(arguments: list[str]) -> None:
    args = option_parser().parse_args(arguments)
    options = tag_options(args)
    floor = min(FLOOR, options.general_threshold, options.character_threshold)
    parts = determining_parts(args.model, args.preprocess, device_parts(args.device), args.batch_size, floor)
    # Each folder of pictures has a state of its own, so that two can be tagged at once.
    folder = sha256_json(str(args.images.resolve()))
    with stage_state(f"tag-images/{folder}", parts) as kept:
        tag_folder(args, options, kept, floor)
        forget_state(kept)


if __name__ == "__main__":
    run_stage(main)
