"""Caption every post of a database with HakuBooru's own KohakuCaptioner, in its default form, on one thread.

    PYTHON_WITH_HAKUBOORU benchmarks/hakubooru_captions.py DATABASE.db OUT.jsonl

Runs inside HakuBooru's environment (see hakubooru_setup.py). One thread is its fastest way: each of its threads
opens a connection of its own, and they wait for one another. Writes one JSON object {id, caption} a line.
"""

import json
import sys

from hakubooru.caption import KohakuCaptioner
from hakubooru.dataset import Post, load_db


def main(database: str, output: str) -> None:
    load_db(database)
    captioner = KohakuCaptioner()
    with open(output, "w", encoding="utf-8") as file:
        # The list of all posts, and each post's tags let go once used, is how its Exporter goes about it, too.
        for post in list(Post.select()):
            caption = captioner.caption(post, b"")
            file.write(json.dumps({"id": post.id, "caption": caption}, ensure_ascii=False) + "\n")
            del post._tags_cache


if __name__ == "__main__":
    main(*sys.argv[1:])
