"""Make the sample's CCIP encoder again: draw its characters, learn them, choose the threshold, write integer ONNX models.

    python stages/make_sample_ccip.py --art data/art --output models/sample-ccip

One thread, some minutes; the same packages (extra `sample` in pyproject.toml) give the same bytes. The characters are
neither those that the sample run teaches nor those of its base model.
"""

from dataclasses import asdict

from repro.errors import run_stage
from repro.hashing import hash_tree, sha256_json, write_manifest
from repro.outputs import json_text, whole_folder

from sample.ccip import Settings, calibration_views, train
from sample.ccip_int8 import export_features, export_metrics
from sample.ccip_pictures import draw_population, split_by_character
from sample.ccip_threshold import judge
from sample.command import art_and_output
from sample.population import SEED

HELD_OUT_EVERY = 8


def main(arguments: list[str]) -> None:
    args = art_and_output(__doc__, arguments)

    learnt, held_out = split_by_character(draw_population(args.art), HELD_OUT_EVERY)
    network = train(learnt, SEED, Settings())
    with whole_folder(args.output) as folder:
        export_features(network, calibration_views(learnt, SEED), folder / "model_feat.onnx")
        export_metrics(folder / "model_metrics.onnx")
        verdict = judge(folder / "model_feat.onnx", held_out)
        (folder / "metrics.json").write_text(json_text(asdict(verdict)))
        write_manifest(folder, sha256_json(hash_tree(folder)))
    print(
        f"{args.output}: {len(learnt)} characters learnt; on {len(held_out)} others"
        f" F1 {verdict.f1_score:.4f} at {verdict.threshold:.4f}"
    )


if __name__ == "__main__":
    run_stage(main)
