"""Scores of the base population's pictures, so that the base's captions have the words that scorers give.

Nobody has to look at the pictures for them: how well a post is liked follows from the tier that its picture was drawn in.
The aesthetic score is the percentile of the post's favourites, the quality score the share of clean pictures beside it.
"""

from pathlib import Path

from repro.hashing import sha256_json, write_manifest
from repro.outputs import json_text, whole_folder

import numpy as np
import polars as pl

from booru.captioning.annotations import AESTHETIC, MODELS_FILE, PICTURES_FILE, QUALITY, pictures_digest
from booru.ratings import RATINGS
from booru.shards import numbered_frames, shard_files, shard_name, values_digest, write_frame
from sample.posts import FAVOURITES, PERCENTILES, TIER_PERCENTILES

# Of pictures of either kind around the edge between clean ones and others.
CLEAN_SCORE, OTHER_SCORE = 0.99, 0.01


def favourite_percentiles(posts: pl.DataFrame) -> np.ndarray:
    """The percentile, 0..0.95, of each post's `fav_count` among posts of its `rating`, float64, by the published table."""
    pairs = posts.select("rating", "fav_count").iter_rows()
    return np.array([np.interp(count, FAVOURITES[RATINGS[rating]], PERCENTILES) for rating, count in pairs])


def scores_of(posts: pl.DataFrame) -> dict[str, np.ndarray]:
    """Both scores, float32, of posts with the columns rating and fav_count."""
    liked = favourite_percentiles(posts)
    clean = liked > TIER_PERCENTILES["clean"][0]
    return {
        AESTHETIC: liked.astype(np.float32),
        QUALITY: np.where(clean, CLEAN_SCORE, np.maximum(liked, OTHER_SCORE)).astype(np.float32),
    }


def write_scores(folder: Path, posts: Path) -> None:
    """Write a folder as the annotate stage's, with both scores of the posts in the folder `posts`."""
    digests, pictures = {}, {}
    with whole_folder(folder) as target:
        for kind in (AESTHETIC, QUALITY):
            (target / kind).mkdir()
        for number, frame in numbered_frames(shard_files(posts, "posts"), ["id", "rating", "fav_count", "sha256"]):
            pictures[str(number)] = pictures_digest(frame)
            for kind, scores in scores_of(frame).items():
                table = pl.DataFrame({"id": frame["id"], "score": scores})
                write_frame(target / kind / shard_name(kind, number), table)
                digests[f"{kind} {number}"] = values_digest(table)
        (target / MODELS_FILE).write_text(json_text({kind: {} for kind in (AESTHETIC, QUALITY)}))
        (target / PICTURES_FILE).write_text(json_text(pictures))
        write_manifest(target, sha256_json(digests))
