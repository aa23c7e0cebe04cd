import json

from checkpoints.metadata import autov2, merge_recipe, modelspec


def test_modelspec_states_what_a_checkpoint_must() -> None:
    spec = modelspec("A", "B", "2024-01-19", "CC0", 1024, "epsilon", "ab" * 32)
    must = {"sai_model_spec", "architecture", "implementation", "title"}
    assert {f"modelspec.{key}" for key in must} <= spec.keys()
    assert spec["modelspec.hash_sha256"] == "0x" + "ab" * 32
    assert spec["modelspec.resolution"] == "1024x1024"
    assert all(isinstance(value, str) for value in spec.values())


def test_merge_recipe_is_the_same_text_in_any_order() -> None:
    one = merge_recipe("lokr(base, trained, 1.0)", {"trained": "2", "base": "1"})
    assert one == merge_recipe("lokr(base, trained, 1.0)", {"base": "1", "trained": "2"})
    assert json.loads(one["merge_recipe"])["models"] == {"base": "1", "trained": "2"}


def test_autov2_is_ten_digits() -> None:
    assert autov2("31e35c80fc4829d14f90153f4c74cd59c90b779f6afe05a74cd6120b893f7e5b") == "31e35c80fc"
