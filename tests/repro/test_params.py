"""Parameter files: numbers in every spelling, one-line errors that name the key."""

import json
import re
from pathlib import Path

from repro.errors import StageError
from repro.params import FAMILY_PICTURES, FAMILY_SAMPLERS, load_params, read_yaml

import pytest
import yaml
from tiny_training import sample_values

SPELLINGS = ["2e-5", "2e-05", "2E-5", "2.0e-5", "0.00002", ".00002", "+2e-5", "2.e-5"]


def write(path: Path, values: dict) -> Path:
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    return write(tmp_path / "params.yaml", sample_values())


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_a_rate_is_the_same_number_in_the_file(sample: Path, spelling: str) -> None:
    lines = [f"lr: {spelling}" if line.startswith("lr:") else line for line in sample.read_text().splitlines()]
    sample.write_text("\n".join(lines))
    assert load_params(sample).lr == 2e-5


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_a_rate_is_the_same_number_in_an_override(sample: Path, spelling: str) -> None:
    assert load_params(sample, [f"lr={spelling}"]).lr == 2e-5


@pytest.mark.parametrize("spelling", ["2e-5", "2e-05", "2.0e-5", "0.00002"])
def test_a_file_that_dvc_rewrote_has_the_number_and_is_else_the_same(tmp_path: Path, spelling: str) -> None:
    """`dvc exp run -S lr=2e-5` goes through this function of DVC; it writes 2e-05, and breaks lines that are long."""
    from dvc.utils.hydra import apply_overrides

    path = tmp_path / "params.yaml"
    path.write_bytes(Path("params.yaml").read_bytes())
    apply_overrides(path, [f"lr={spelling}"])
    before, after = Path("params.yaml").read_text(), path.read_text()
    assert load_params(path).lr == 2e-5
    values = read_yaml(before, "before") | {"lr": 2e-5}
    assert json.dumps(read_yaml(after, "after")) == json.dumps(values), "in the same order"
    assert re.findall("#.*", after) == re.findall("#.*", before)


@pytest.mark.parametrize("text", ["2e-5 x", "1_000", "0x10", "'2e-5'", "true", ".inf", ".nan", "1e999", "[1]", "null", "2,5"])
def test_what_is_no_number_is_refused_with_key_and_value(sample: Path, text: str) -> None:
    with pytest.raises(StageError, match=r"params\.yaml: lr: ") as caught:
        load_params(sample, [f"lr={text}"])
    assert len(str(caught.value).splitlines()) == 1


def test_a_whole_number_stands_for_a_float_but_not_the_other_way(sample: Path) -> None:
    assert load_params(sample, ["lr=1"]).lr == 1.0
    for text in ("2.0", "2e3", "007", "true"):
        with pytest.raises(StageError, match=r"train\.updates"):
            load_params(sample, [f"train.updates={text}"])


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("lrr=2e-5", "lrr"),
        ("train.lrr=1", "train.lrr"),
        ("trian.updates=1", "trian"),
        ("lr.x=1", "lr"),
        ("lr", "key=value"),
        ("=1", "key=value"),
    ],
)
def test_an_override_of_an_unknown_key_is_refused(sample: Path, override: str, named: str) -> None:
    with pytest.raises(StageError, match=named):
        load_params(sample, [override])


def test_an_unknown_key_in_the_file_is_refused(sample: Path) -> None:
    for path, values in [("lrr", {}), ("train.updatess", {"train": {}})]:
        changed = sample_values()
        for section in values:
            changed[section]["updatess"] = 3
        if not values:
            changed["lrr"] = 2e-5
        with pytest.raises(StageError, match=f"unknown key '{path}'"):
            load_params(write(sample, changed))


def test_a_missing_key_is_named(sample: Path) -> None:
    values = sample_values()
    del values["latents"]["resolution"]
    with pytest.raises(StageError, match=r"key 'latents\.resolution' is missing"):
        load_params(write(sample, values))


def test_a_doubled_key_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("seed: 1\nlr: 1\ntrain:\n  updates: 1\n  updates: 2\n")
    with pytest.raises(StageError, match=r"params\.yaml:4: .*'updates' stands twice"):
        load_params(path)


@pytest.mark.parametrize("text", ["a: [1", "a: b: c", "\tx: 1"])
def test_text_that_is_no_yaml_is_refused_with_its_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(StageError, match=r"params\.yaml:\d+: not valid YAML"):
        load_params(path)


def test_a_missing_or_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="no such parameter file"):
        load_params(tmp_path / "none.yaml")
    (tmp_path / "empty.yaml").write_text("")
    with pytest.raises(StageError, match="expected a mapping"):
        load_params(tmp_path / "empty.yaml")


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("seed=-1", "seed"),
        ("lr=0", "lr"),
        ("te_lr=-1e-5", "te_lr"),
        ("train.virtual_ranks=3", "power of two"),
        ("train.max_token_length=77", "multiple of 75"),
        ("train.betas=[0.9, 1.0]", r"\[0, 1\)"),
        ("train.betas=[0.9]", "betas"),
        ("train.optimizer=sgd", "optimizer"),
        ("train.micro_batch_size=0", "micro_batch_size"),
        ("train.batch_size=12", "batch_size \\(12\\) must be a multiple of virtual_ranks x micro_batch_size \\(4 x 2\\)"),
        ("train.updates=null", "either updates or epochs"),
        ("train.epochs=3", "either updates or epochs"),
        ("train.debiased=true", "debiased and min_snr_gamma are two weightings"),
        ("train.schedule=polynomial", "schedule"),
        ("train.precision=int8", "precision"),
        ("train.lokr.by_name={'(': 2}", "'\\(' is not a regular expression"),
        ("train.lokr.unet_attention=0", "unet_attention"),
        ("train.checkpoints={every: 4, keep_last: 1, keep_every: 6}", "keep_every \\(6\\) must be a multiple of every \\(4\\)"),
        ("train.checkpoints={every: 4, keep_last: 0, keep_every: null}", "keeps nothing"),
        ("train.pictures.prompts=[]", "prompts"),
        ("train.pictures.width=60", "width"),
        ("device=tpu", "device"),
        ("runtime.text_cache_megabytes=-1", "text_cache_megabytes"),
        ("train.tag_dropout=1.5", "tag_dropout"),
        ("latents.bucket_reso_steps=12", "multiple of 8"),
        ("latents.max_bucket_reso=32", "no bucket is possible"),
        ("latents.min_bucket_reso=128", "no bucket is possible"),
        ("filter.ratings=[]", "ratings"),
        ("filter.ratings=[safe]", "ratings"),
        ("filter.blocked_tags=[]", "blocked_tags must contain"),
        ("filter.blocked_tags=[loli, shota]", "toddlercon"),
        ("select.ranges=[{first: 5, last: 4, take: null}]", "below first"),
        ("select.ranges=[{first: 0, last: 9, take: 1}, {first: 9, last: 12, take: 1}]", "overlap"),
        ("merge.name=../escape", "name"),
        ("train.pictures.sampler=heun", "sampler"),
        ("evaluate.ccip.hub={repo: deepghs/ccip_onnx, revision: main, path: ''}", "revision"),
        ("evaluate.ccip.hub={repo: ccip_onnx, revision: " + "a" * 40 + ", path: ''}", "repo"),
        ("evaluate.ccip.hub={repo: a/b, revision: " + "a" * 40 + ", path: ../c}", "path"),
        ("evaluate.ccip.sha256={model_feat.onnx: abc}", "sha256"),
        ("evaluate.references.pictures=0", "pictures"),
        ("evaluate.references.ratings=[]", "ratings"),
        ("evaluate.references.core_tag_share=1.5", "core_tag_share"),
        ("evaluate.generation.modes=[]", "modes"),
        ("evaluate.generation.modes=[name, name]", "a mode stands twice"),
        ("evaluate.generation.modes=[new_artist]", "modes"),
        ("evaluate.generation.templates={}", "templates"),
        ("evaluate.generation.templates={Plain: solo}", "templates"),
        ("evaluate.generation.templates={plain: 'solo, (Loli:1.2)'}", "plain: 'solo, \\(Loli:1.2\\)' asks for 'loli', one of"),
        ("evaluate.generation.templates={plain: loli bikini}", "'loli bikini' asks for 'loli', one of filter.blocked_tags"),
        ("evaluate.generation.templates={plain: 'a shota, smile'}", "asks for 'shota', one of filter.blocked_tags"),
        ("evaluate.generation.templates={plain: lolidom}", "asks for 'lolidom', one of filter.blocked_tags"),
        ("train.pictures.prompts=[1girl, 'solo, loli']", "train.pictures.prompts.1: 'solo, loli' asks for 'loli', one of"),
        ("evaluate.generation.rating=safe", "rating"),
        ("evaluate.generation.steps=1000", "steps"),
        ("report.base_models=[stabilityai]", "base_models"),
        ("runtime.processes=0", "processes"),
    ],
)
def test_impossible_values_are_refused_in_one_line_that_says_what_is_allowed(sample: Path, override: str, named: str) -> None:
    with pytest.raises(StageError, match=named) as caught:
        load_params(sample, [override])
    assert len(str(caught.value).splitlines()) == 1


def test_words_that_hold_a_blocked_tags_letters_are_free(sample: Path) -> None:
    params = load_params(sample, ["evaluate.generation.templates={plain: 'solo, lolita fashion'}"])
    assert params.evaluate.generation.templates == {"plain": "solo, lolita fashion"}


def test_every_recipe_loads() -> None:
    recipes = sorted(Path("recipes").glob("*.yaml"))
    for path in [Path("params.yaml"), *recipes]:
        if isinstance(values := read_yaml(path.read_text(), str(path)), dict) and "runtime" in values:
            load_params(path)


@pytest.mark.parametrize(
    ("recipe", "override", "named"),
    [
        ("sample", "train.adaptive_loss_weight=true", r"train\.adaptive_loss_weight: family sdxl"),
        ("sample", "base.decoder=stable-cascade", r"base\.decoder: family sdxl"),
        ("sample", "evaluate.generation.sampler=ddpm", r"evaluate\.generation\.sampler: ddpm .* euler_ancestral"),
        ("sample", "evaluate.generation.decoder={steps: 4, guidance: 1.0}", r"evaluate\.generation\.decoder"),
        ("sample", "evaluate.generation.original_width=", r"original_width"),
        ("sample", "family=cascade", "family is cascade"),
        ("sample-cascade", "train.min_snr_gamma=5.0", r"train\.min_snr_gamma: family cascade"),
        ("sample-cascade", "train.noise_offset=0.1", r"train\.noise_offset: family cascade"),
        ("sample-cascade", "base.zero_terminal_snr=false", r"base\.zero_terminal_snr: family cascade"),
        ("sample-cascade", "evaluate.generation.sampler=ddim", r"evaluate\.generation\.sampler: ddim .* ddpm"),
        ("sample-cascade", "train.pictures.decoder=", r"train\.pictures\.decoder"),
        ("sample-cascade", "evaluate.generation.original_width=64", r"original_width, original_height: of family sdxl only"),
        ("sample-cascade", "annotate.tags=", r"caption\.tags: annotations needs a tagger"),
        ("sample-cascade", "caption.general_threshold=0.01", r"annotate\.tags\.floor \(0\.05\)"),
        ("sample-cascade", "annotate.tags.floor=0.36", r"annotate\.tags\.floor: Input should be less than or equal to 0\.35"),
        ("sample", "caption.above={aesthetic: 0.9, quality: null}", r"caption\.above: aesthetic needs a model"),
        ("sample", "caption.repeats=[{aesthetic: null, quality: 0.9, extra: 5}]", r"caption\.repeats: quality needs a model"),
        ("sample-cascade", "caption.above={aesthetic: null, quality: null}", "give a score in aesthetic or in quality"),
    ],
)
def test_settings_that_do_not_fit_the_family_or_the_annotations_are_refused(recipe: str, override: str, named: str) -> None:
    path = Path("recipes", f"{recipe}.yaml")
    load_params(path)
    with pytest.raises(StageError, match=named) as refused:
        load_params(path, [override])
    assert len(str(refused.value).splitlines()) == 1


def test_a_family_that_lacks_an_entry_is_named_and_not_taken_for_another(sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each table, also when it stands in the others."""
    third = load_params(sample).model_copy(update={"family": "third"})
    for table in (FAMILY_PICTURES, FAMILY_SAMPLERS):
        with pytest.raises(KeyError, match="third"):
            third._fits_the_family()
        monkeypatch.setitem(table, "third", table["sdxl"])
    with pytest.raises(KeyError, match="third"):
        third._fits_the_family()
