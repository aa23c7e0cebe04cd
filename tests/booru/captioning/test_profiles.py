"""profiles.yaml and its checks."""

from pathlib import Path

from repro.errors import StageError

import pytest
from pydantic import ValidationError

from booru.captioning.profiles import PROFILES_FILE, Profile, profile, profiles

NAMES = ["kohaku-xl-delta", "kohaku-xl-epsilon", "hakubooru-delta", "hakubooru-epsilon", "sotediffusion", "sotediffusion-scripts"]


def test_the_profiles_there_are():
    assert list(profiles()) == NAMES
    assert [name for name, rules in profiles().items() if rules.quality] == NAMES[:4]
    assert [name for name, rules in profiles().items() if rules.scores] == NAMES[4:]
    for rules in profiles().values():
        assert len(rules.special_tags) == len(set(rules.special_tags)) == (22 if rules.keep_mark else 0)


def test_the_scripts_of_sotediffusion_differ_from_its_card_in_one_score():
    card, scripts = (profile(name).model_dump(exclude={"source"}) for name in NAMES[4:])
    step = card["scores"]["aesthetic"]["above"][6]
    assert step == {"score": 0.25, "word": "slightly displeasing"}
    step["score"] = 0.20
    assert scripts == card


@pytest.mark.parametrize("name", NAMES[:4])
def test_favourites_grow_with_the_percentile(name: str):
    for table in profile(name).quality.percentiles.values():
        counts = [table[p] for p in sorted(table)]
        assert counts == sorted(set(counts))


def test_an_unknown_profile_names_the_known_ones():
    with pytest.raises(StageError, match=f"no profile 'kohaku-beta'; there are {', '.join(NAMES)}$"):
        profile("kohaku-beta")


def made_from_scores(column: str = "quality_score") -> dict:
    return {"column": column, "above": [{"score": 0.5, "word": "good"}], "otherwise": "bad"}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"keep": ["special", "general"]}, "a part stands twice"),
        ({"keep": ["special", "special", "character"]}, "a part stands twice"),
        ({"keep": ["characters"]}, "Input should be 'special'"),
        ({"general": ["general", "meta", "year", "rating"]}, "aesthetic and quality must stand in keep or general just where"),
        ({"keep": ["aesthetic", "special"]}, "aesthetic and quality must stand in keep or general just where"),
        ({"scores": {"aesthetic": made_from_scores()}}, "aesthetic and quality must stand in keep or general just where"),
        ({"scores": {"quality": made_from_scores()}}, "quality words come from favourites or from scores, not from both"),
        ({"scores": {"beauty": made_from_scores()}}, "Input should be 'aesthetic'"),
        ({"quality": None}, "aesthetic and quality must stand in keep or general just where"),
        ({"ratings": {"general": ["safe"]}}, "at least 4 items"),
        ({"years": [{"first": 2005, "last": 2010}]}, "Field required"),
        ({"years": [{"first": "2005", "last": 2010, "word": "old"}]}, "valid integer"),
        ({"keep": ["character"]}, "special_tags need the part special"),
        ({"colour": "blue"}, "Extra inputs are not permitted"),
    ],
)
def test_a_malformed_profile_is_refused(change: dict, complaint: str):
    values = profile("kohaku-xl-epsilon").model_dump()
    assert Profile.model_validate(values) == profile("kohaku-xl-epsilon")
    with pytest.raises(ValidationError, match=complaint):
        Profile.model_validate(values | change)


def test_a_malformed_profile_of_the_file_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    lines = PROFILES_FILE.read_text(encoding="utf-8").replace("    keep_mark: true", "    keep_mark: yes please", 1)
    (tmp_path / "profiles.yaml").write_text(lines, encoding="utf-8")
    monkeypatch.setattr("booru.captioning.profiles.PROFILES_FILE", tmp_path / "profiles.yaml")
    with pytest.raises(StageError, match=r"profiles\.yaml: profile kohaku-xl-delta: keep_mark: "):
        profiles.__wrapped__()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"percentiles": {"general": {10: 1}}}, "percentiles must name all four ratings"),
        ({"above": [{"percentile": 10, "word": "a"}, {"percentile": 90, "word": "b"}]}, "from the highest percentile to"),
        ({"above": [{"percentile": 99, "word": "a"}]}, r"percentiles.general lacks \[99\]"),
    ],
)
def test_malformed_quality_words_are_refused(change: dict, complaint: str):
    values = profile("kohaku-xl-epsilon").model_dump()
    with pytest.raises(ValidationError, match=complaint):
        Profile.model_validate(values | {"quality": values["quality"] | change})


def test_scores_must_go_from_the_highest_to_the_lowest():
    values = profile("sotediffusion").model_dump()
    values["scores"]["quality"]["above"].reverse()
    with pytest.raises(ValidationError, match="above must go from the highest score to the lowest"):
        Profile.model_validate(values)
