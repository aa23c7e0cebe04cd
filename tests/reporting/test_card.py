import ast
import json
import re
from pathlib import Path

from repro.params import Params, load_params

import pytest
import yaml
from huggingface_hub import ModelCardData
from markupsafe import Markup
from small_reports import report_paths, seal_evaluation, write_reports

from reporting.card import code, fenced, license_fields, markdown_text, model_card, quoted
from reporting.inputs import read_inputs
from reporting.page import report_page

# A recipe of the size and kind of Kohaku XL Epsilon's, its base merged from two models.
PUBLISHED = [
    "lr=2e-5", "te_lr=5e-6", "device=cuda", "caption.profile=kohaku-xl-epsilon", "models.files={gamma: a.safetensors, beta: b}",
    "base.formula=0.5 * gamma + 0.5 * beta", "latents.resolution=1024", "latents.min_bucket_reso=256",
    "latents.max_bucket_reso=4096", "latents.bucket_reso_steps=64", "train.precision=fp16", "train.optimizer=lion8bit",
    "train.batch_size=256", "train.micro_batch_size=4", "train.virtual_ranks=4", "train.warmup_updates=1000",
    "train.updates=", "train.epochs=1", "train.tag_dropout=0.15", "train.caption_dropout=0.0", "train.min_snr_gamma=5.0",
    "train.noise_offset=0.0357", "train.lokr.unet_attention=8", "train.lokr.text_mlp=4",
    "merge.license=Fair AI Public License 1.0-SD", "report.title=Kohaku XL",
    "report.license_link=https://freedevproject.org/faipl-1.0-sd/", "report.base_models=[someone/gamma, someone/beta]",
    "report.datasets=[someone/pictures]",
    "report.cost=4 x RTX 3090, 12 to 13 days, 50 s an update",
]  # fmt: skip
# What the cards of Kohaku XL Delta and Epsilon tell, and where this card tells it.
FIELDS = {
    "introduction": r"## Introduction\n\nKohaku XL is gamma, beta .*trained with LoKr on 902 pictures",
    "benchmark": r"## Benchmark[\s\S]*CCIP score by name, mean over 8 characters \(0 to 1, .*\) \| 0\.140 \| 0\.755",
    "benchmark's plot": r"!\[Plot: Scores from the best character.*\]\(ccip/rank\.png\)",
    "usage format": r"<1girl/1boy/1other/...>, <character>, <series>, <artists>,\n<general tags>",
    "tags by counts": r"at least 1,000 pictures should work, and of at least 100 may work",
    "characters by counts": r"more than 500 pictures come by their name, and those of 100 to 500",
    "underscores": r"written without underscores, except short ones",
    "brackets in WebUI": r"name \\\(series\\\)",
    "special tags: quality": r"\* Quality tags: masterpiece, best quality, .*, worst quality",
    "special tags: rating": r"\* Rating tags: safe, sensitive, nsfw, explicit",
    "special tags: date": r"\* Date tags: old, early, mid, recent, newest",
    "quality percentiles": r"\| masterpiece \| favourites above the 90th percentile \| 141 \|",
    "quality within a rating": r"percentile of a post's favourites \(fav_count\) among the posts of its own rating",
    "rating tags": r"\| nsfw \| rated questionable or explicit \|",
    "date tags": r"\| newest \| uploaded 2021-2024 \| 216 \|",
    "date is the upload's": r"Date tags follow the upload date",
    "resolution": r"Pixel area 1024x1024, sides from 256 to 4096 in steps of 64",
    "data set": r"Of 934 selected posts 904 were kept",
    "selection ranges": r"ids 0 to 1,999,999: 440 of 520 posts, at random\n.* ids 2,000,000 to 7,999,999: 494 of 494 posts, all",
    "selection seed": r"selected by id with seed 20240119, the same posts every time",
    "funnel": r"\| deleted \| 14 \| 914 \|\n\| banned \| 3 \| 911 \|",
    "shuffled tags": r"\* Shuffle tags: the order of the second line's tags is shuffled in each step",
    "tag dropout": r"\* Tag dropout: 15 % of the second line's tags are dropped at random in each step",
    "base model refinement": r"### Base model refinement\n\nThe base is `0\.5 \* gamma \+ 0\.5 \* beta`, of .* `gamma`",
    "algorithm": r"Algorithm: LoKr with full matrices, text encoders not frozen\. Factors: UNet attention 8, .* MLP 4\.",
    "LoKr file": r"The LoKr file is 0\.0 MB and is published as `lokr\.safetensors`",
    "number of images": r"\* Training images: 902\n",
    "batch size": r"\* Batch size: 4\n",
    "accumulation": r"\* Gradient accumulation steps: 16\n",
    "equivalent batch size": r"\* Equivalent batch size: 256\n",
    "epochs": r"\* Total epochs: 34\.06 \(1 epoch asked for\)\n",
    "steps": r"\* Total updates: 120\n",
    "optimizer": r"\* Optimizer: Lion8bit\n",
    "learning rates": r"Learning rate: 2e-5 for the UNet, 5e-6 for the text encoders\n",
    "scheduler": r"Schedule: constant with warm-up\n",
    "warm-up": r"Warm-up updates: 1,000\n",
    "weight decay": r"Weight decay: 0\.1\n",
    "betas": r"Betas: 0\.9, 0\.95\n",
    "min-SNR": r"\* Loss weighting: min-SNR, gamma 5\n",
    "noise offset": r"\* Noise offset: 0\.0357\n",
    "trained resolution": r"\* Resolution: 1024x1024\n",
    "smallest bucket": r"\* Smallest bucket side: 256\n",
    "largest bucket": r"\* Largest bucket side: 4096\n",
    "mixed precision": r"\* Mixed precision: fp16 on a GPU\n",
    "training cost": r"Training cost: 120 updates, 30,720 images seen; 4 x RTX 3090, 12 to 13 days, 50 s an update\.",
    "final merge": r"### Final merge\n\nThis model is `lokr\(base, trained, 1\.0\)`",
    "intermediate checkpoints": r"### Intermediate checkpoints\n\n.*`update-00000060\.safetensors`",
    "artist and character lists": r"\[characters\.json\]\(characters\.json\), \[artists\.json\]\(artists\.json\)",
    "references": r"## References\n\n\* Podell[\s\S]*LyCORIS[\s\S]*HakuBooru",
    "license": r"## License\n\n\[Fair AI Public License 1\.0-SD\]\(https://freedevproject\.org/faipl-1\.0-sd/\)",
}  # fmt: skip


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> str:
    folder = write_reports(tmp_path_factory.mktemp("published"))
    return card_of(folder, load_params(Path("recipes/sample.yaml"), PUBLISHED))


def card_of(folder: Path, params: Params) -> str:
    paths = report_paths(folder)
    return model_card(params, read_inputs(paths), paths, folder / "MODEL_CARD.md")


@pytest.mark.parametrize("field", FIELDS)
def test_the_card_has_what_the_published_cards_have(published, field):
    assert re.search(FIELDS[field], published.replace(r"\_", "_"))


def test_front_matter_of_another_licence_is_the_hubs(published):
    matter = yaml.safe_load(published.split("---\n")[1])
    assert (matter["license"], matter["license_name"]) == ("other", "fair-ai-public-license-1.0-sd")
    assert matter["license_link"] == "https://freedevproject.org/faipl-1.0-sd/"
    assert matter["base_model"] == ["someone/gamma", "someone/beta"] and matter["datasets"] == ["someone/pictures"]
    data = ModelCardData(**matter, ignore_metadata_errors=False)
    assert [result.metric_value for result in data.eval_results] == [0.755, 0.877, 0.5]


# (file, keys to a value, another value, its text on card and page)
FIGURES = [
    ("ccip.json", ["models", "merged", "score"], 0.91234, "0.912"),
    ("ccip.json", ["models", "base", "ci95"], [0.01234, 0.98765], "[0.012, 0.988]"),
    ("ccip.json", ["models", "merged", "rank"], 1117.34, "1,117.3"),
    ("ccip.json", ["models", "merged", "diversity"], 0.45678, "0.457"),
    ("ccip.json", ["models", "base", "above_90_percent"], 4321, "4,321"),
    ("ccip.json", ["difference", "mean"], -0.43219, "-0.432"),
    ("ccip.json", ["modes", "core_tags", "difference", "ci95"], [0.11111, 0.22222], "[0.111, 0.222]"),
    ("ccip.json", ["modes", "new_artist", "characters"], 2468, "2,468"),
    ("ccip.json", ["training_pictures", "spearman", "base"], -0.56789, "-0.568"),
    ("ccip.json", ["references", "ref_self"], 0.83654, "0.837"),
    ("ccip.json", ["pairs"], 9876543, "9,876,543"),
    ("ccip.json", ["borderline_pairs"], 7654, "7,654"),
    ("ccip.json", ["threshold"], 0.17847511429108218, "0.17847511429108218"),
    ("ccip_run.json", ["encoder", "model_feat.onnx"], "9" * 64, "9" * 64),
    ("ccip_run.json", ["requests"], "8" * 64, "8" * 64),
    ("filter.json", ["steps", 1, "dropped"], 12345, "12,345"),
    ("merge.json", ["single_file", "tensors"], 24680, "24,680"),
    ("merge.json", ["inputs", "sha256", "base"], "7" * 64, "7" * 64),
    ("train.json", ["updates"], 28638, "28,638"),
    ("train.json", ["trained_numbers"], 987654321, "987,654,321"),
    ("train.json", ["loss_last_tenth"], 0.07654, "0.0765"),
    ("artists.json", ["lisa_wischofsky", "posts"], 8642, "8,642"),
]


# The same of what only the card tells.
CARD_FIGURES = [
    ("select.json", ["ranges", 0, "taken"], 111, "111 of 520 posts, at random"),
    ("select.json", ["metadata"], 7654321, "7,654,321 posts"),
    ("select.json", ["repeats"], 2222, "an epoch has 2,222 of the selected posts"),
    ("captions.json", ["posts_with_word", "masterpiece"], 1357, "90th percentile | 1,357 |"),
    ("captions.json", ["posts"], 903, "903 captioned"),
]


def documents(folder: Path) -> tuple[str, str]:
    """Card, without backslash escapes, and page."""
    params, paths = load_params(Path("recipes/sample.yaml")), report_paths(folder)
    return re.sub(r"\\([\[\]_])", r"\1", card_of(folder, params)), report_page(params, read_inputs(paths), paths)


@pytest.fixture(scope="module")
def before_and_after(tmp_path_factory) -> list[tuple[str, str]]:
    """Card and page of the small reports, and again after all the changes above."""
    folder = write_reports(tmp_path_factory.mktemp("changed"))
    before = documents(folder)
    for name, keys, value, _ in FIGURES + CARD_FIGURES:
        content = json.loads((folder / name).read_text())
        node = content
        for key in keys[:-1]:
            node = node[key]
        node[keys[-1]] = value
        (folder / name).write_text(json.dumps(content))
    seal_evaluation(folder)
    return [before, documents(folder)]


@pytest.mark.parametrize("text", [text for *_, text in FIGURES])
def test_a_changed_input_changes_card_and_page(before_and_after, text):
    (card, page), (changed_card, changed_page) = before_and_after
    assert text not in card and text not in page
    assert text in changed_card and text in changed_page


@pytest.mark.parametrize("text", [text for *_, text in CARD_FIGURES])
def test_what_only_the_card_tells_follows_its_input(before_and_after, text):
    (card, _), (changed, _) = before_and_after
    assert text not in card and text in changed


def test_markdown_marks_are_escaped_and_lines_joined():
    assert markdown_text("a_b|c\n<i>*x*[y](z)`q`") == r"a\_b\|c \<i\>\*x\*\[y\](z)\`q\`"


def test_plain_text_and_markup_pass():
    assert markdown_text("0.75 - fine, (really)") == "0.75 - fine, (really)"
    assert markdown_text(Markup("**bold**")) == "**bold**"


@pytest.mark.parametrize(
    ("text", "expected"), [("plain", "`plain`"), ("a`b", "``a`b``"), ("``", "``` `` ```"), ("a\nb", "`a b`")]
)
def test_code_spans_hold_any_text(text, expected):
    assert code(text) == expected


def test_a_fence_is_longer_than_what_it_holds():
    assert fenced("x", "yaml") == "```yaml\nx\n```"
    assert fenced("a\n```\nb\n", "") == "````\na\n```\nb\n````"


def test_quoted_is_a_python_literal():
    text = 'say "hi"\\ \n```'
    assert ast.literal_eval(str(quoted(text))) == text
    assert "\n" not in quoted(text)


def test_licences_of_the_hub_stand_alone_and_others_bring_their_name():
    assert license_fields("CC-BY-4.0", None) == {"license": "cc-by-4.0"}
    assert license_fields("Own terms, 2024", None) == {"license": "other", "license_name": "own-terms-2024"}
    assert license_fields("Own terms", "https://example.org")["license_link"] == "https://example.org"


@pytest.fixture(scope="module")
def of_cascade(tmp_path_factory) -> str:
    folder = write_reports(tmp_path_factory.mktemp("cascade"))
    return card_of(folder, load_params(Path("recipes/sotediffusion-base.yaml"))).replace("\\", "")


@pytest.mark.parametrize(
    "field",
    [
        r"stable-cascade\n",
        r"All weights of the stage C prior and the text encoder were trained; text encoder not frozen",
        r"Learning rate: 1e-5 for the stage C prior, 4e-6 for the text encoder\n",
        r"Loss weighting: P2, 1 / \(1 \+ SNR\)\n\* Resolution",
        r"DDPM, 30 steps, guidance 7; decoder 10 steps, guidance 1, 1024x1536",
        r"tags and rating by `wd-swinv2-tagger-v3`, aesthetic score by `aesthetic-shadow-2`",
        r"general ones of a probability of at least 0\.35, characters of at least 0\.5\.",
        r'The text says "<text>"',
        r"the order of all tags is shuffled in each step",
        r"## References\n\n\* Pernias[\s\S]*Choi[\s\S]*Shazeer",
    ],
)
def test_the_card_of_a_stable_cascade_tells_its_own(of_cascade, field):
    assert re.search(field, of_cascade)


def test_the_card_of_a_stable_cascade_tells_nothing_of_sdxl(of_cascade):
    told = of_cascade.split("<summary>Parameters")[0]
    assert not re.search(r"SDXL|StableDiffusionXL|UNet|[Nn]oise offset|min-SNR", told.replace("Kohaku XL", ""))


def test_the_usage_of_each_family_is_python(published, of_cascade):
    for card in (published, of_cascade):
        example = re.search(r"```python\n([\s\S]*?)```", card).group(1)
        compile(example, "usage", "exec")
