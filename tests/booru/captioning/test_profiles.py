"""profiles.yaml and its checks."""

from repro.errors import StageError

import pytest
from pydantic import ValidationError

from booru.captioning.profiles import Profile, profile, profiles


def test_the_profiles_there_are():
    assert list(profiles()) == ["kohaku-delta", "kohaku-epsilon", "hakubooru-head"]
    for rules in profiles().values():
        assert len(rules.special_tags) == len(set(rules.special_tags)) == 22
        for table in rules.quality.percentiles.values():
            counts = [table[p] for p in sorted(table)]
            assert counts == sorted(counts)


def test_unknown_profile_names_the_known_ones():
    with pytest.raises(StageError, match="no profile 'kohaku-beta'; there are kohaku-delta, kohaku-epsilon, hakubooru-head"):
        profile("kohaku-beta")


@pytest.mark.parametrize(
    "change",
    [
        {"keep": ["special", "general"]},
        {"keep": ["characters"]},
        {"ratings": {"general": ["safe"]}},
        {"years": [{"first": 2005, "last": 2010}]},
        {"colour": "blue"},
    ],
)
def test_malformed_profile_is_refused(change):
    values = profile("kohaku-epsilon").model_dump()
    with pytest.raises(ValidationError):
        Profile.model_validate(values | change)
