"""How images are divided into shards, without any image."""

from latents.buckets import Placement
from latents.shards import PORTION, PlacedImage, index_frame, lost_frame, plan_shards, portions

SQUARE, TALL = (64, 64), (48, 80)


def image(post_id: int, bucket: tuple[int, int]) -> PlacedImage:
    return PlacedImage({"id": post_id}, (100, 90), Placement(bucket, bucket, 3, 4))


def test_shards_have_one_bucket_and_a_limited_size() -> None:
    images = [image(i, TALL if i % 3 == 0 else SQUARE) for i in (5, 3, 9, 8, 1, 2, 7)]
    shards = plan_shards(images, shard_bytes=2 * 64 * 64 * 2, bytes_per_pixel=2)
    assert [[i.row["id"] for i in shard] for shard in shards] == [[3, 9], [1, 2], [5, 7], [8]]


def test_an_image_larger_than_a_shard_has_one_to_itself() -> None:
    shards = plan_shards([image(1, SQUARE), image(2, SQUARE)], shard_bytes=1, bytes_per_pixel=2)
    assert [len(shard) for shard in shards] == [1, 1]


def test_portions_cover_a_shard_in_order() -> None:
    shard = [image(i, SQUARE) for i in range(2 * PORTION + 1)]
    assert [i for portion in portions(shard) for i in portion] == shard
    assert max(map(len, portions(shard))) == PORTION


def test_index_is_sorted_by_id() -> None:
    index = index_frame([("a", [image(7, SQUARE), image(9, SQUARE)]), ("b", [image(8, TALL)])])
    assert index.rows()[0] == (7, "a", 0, 64, 64, 100, 90, 3, 4)
    assert index["id"].to_list() == [7, 8, 9]
    assert index["row"].to_list() == [0, 0, 1]


def test_lost_images_are_sorted_by_id() -> None:
    assert lost_frame({9: "b", 2: "a"}).rows() == [(2, "a"), (9, "b")]
    assert lost_frame({}).columns == ["id", "reason"]
