"""An ablation: its grids, what it trains and keeps, and the tables that it writes."""

import functools
import json
import os
import signal

import pytest

from toco_jax.cli import commands
from toco_jax.config import validate
from toco_jax.config.maps import scored_maps
from toco_jax.config.methods import TERMS, network_fields
from toco_jax.models.backbones import backbone_from_name
from toco_jax.run import records, workdir
from toco_jax.run.config_files import load_config
from toco_jax.runtime.errors import UserError
from toco_jax.runtime.processes import Preempted
from toco_jax.training import ablation, grids, loop
from toco_jax.training.failures import TrainingError

# Four devices of the tests take batches of eight.
WORDS = ["batch_size=8"]
GRID = [
    {"name": "as it is"},
    {"name": "no ptc", "set": ["loss_weights.ptc=((0, 0.0),)"]},
    {"name": "cls", "set": [f"loss_weights.{t}=((0, 0.0),)" for t in ("cls_aux", "seg", "reg")]},
]


def results(config, **others):
    """Scores that tell variant and seed."""
    seg = 50.0 + config.seed + (0 if config.loss_weights.ptc[-1][1] else -8)
    scores = {"seg_miou": seg, "cam_miou": 60.0 + 4 * config.seed, "cls_f1": 90.0}
    return scores | {"step": config.total_steps, "aux_cam_miou": None} | others


@pytest.fixture
def trained(monkeypatch):
    """Stands in for training; gives the list of the folders whose runs were trained."""
    folders = []

    def train_until_stopped(config, folder, preemption, *, override):
        folders.append("/".join(folder.parts[-2:]))
        folder.mkdir(parents=True, exist_ok=True)
        workdir.save_config(folder, config)
        (folder / records.RESULTS_FILE).write_text(json.dumps(results(config)))

    monkeypatch.setattr(loop, "train_until_stopped", train_until_stopped)
    return folders


@pytest.fixture
def grid(tmp_path):
    path = tmp_path / "grid.json"
    path.write_text(json.dumps(GRID))
    return str(path)


def stops(*args, **options):
    raise Preempted("stopped and saved")


def ablate(tmp_path, grid, *words, seeds=(0, 1)):
    return ablation.ablate("shapes", [*WORDS, *words], tmp_path / "a", grid=grid, seeds=seeds)


def test_the_table(trained, grid, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")  # where no cell takes two lines
    report = ablate(tmp_path, grid)
    assert trained == [f"{v['name']}/seed_{seed}" for seed in (0, 1) for v in GRID]
    assert json.loads((tmp_path / "a" / "ablation.json").read_text()) == report
    assert report["complete"]
    assert [v["name"] for v in report["variants"]] == ["as it is", "no ptc", "cls"]
    first, second, third = report["variants"]
    assert first["scores"] == {
        "seg_miou": {"mean": 50.5, "lowest": 50.0, "highest": 51.0, "seeds": 2},
        "cam_miou": {"mean": 62.0, "lowest": 60.0, "highest": 64.0, "seeds": 2},
        "aux_cam_miou": None,
        "cls_f1": {"mean": 90.0, "lowest": 90.0, "highest": 90.0, "seeds": 2},
    }
    assert first["runs"][1] == {
        "folder": "as it is/seed_1",
        "step": 250,
        "seg_miou": 51.0,
        "cam_miou": 64.0,
        "aux_cam_miou": None,
        "cls_f1": 90.0,
    }
    assert second["scores"]["seg_miou"]["mean"] == 42.5 and second["not_trained"] == []
    # The decoder has a score, but nothing has trained it.
    assert third["runs"][0]["seg_miou"] == 50.0 and third["scores"]["seg_miou"] is None
    assert third["not_trained"] == ["seg_miou", "aux_cam_miou"]
    cam, f1 = "62.0 (60.0 to 64.0)", "90.0 (90.0 to 90.0)"
    assert (tmp_path / "a" / "ablation.md").read_text() == (
        "shapes batch_size=8: mIoU and F1 in %, mean (lowest to highest) of the seeds\n\n"
        "| variant | seeds | segmentation | CAM | auxiliary CAM | F1 |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
        f"| as it is | 2 | 50.5 (50.0 to 51.0) | {cam} | absent | {f1} |\n"
        f"| no ptc | 2 | 42.5 (42.0 to 43.0) | {cam} | absent | {f1} |\n"
        f"| cls | 2 | not trained | {cam} | not trained | {f1} |\n"
    )
    assert "42.5 (42.0 to 43.0)" in capsys.readouterr().out


def test_the_mean_of_some_labels(trained, grid, tmp_path, monkeypatch):
    ious = {"background": 80.0, "striped disc": 40.0, "checkered square": 15.0}

    def with_rows(config):
        iou = ious | {"striped disc": 40.0 + 2 * config.seed, "dotted triangle": None}
        return results(config, rows=[{"predictor": "seg", "iou": iou}])

    monkeypatch.setattr(loop, "finished", lambda folder, config, override: with_rows(config))
    settings = {"grid": grid, "seeds": (0, 1)}
    run = functools.partial(ablation.ablate, "shapes", WORDS, tmp_path / "a", **settings)
    first, _, third = run(labels=["background", "striped disc"])["variants"]
    assert first["scores"]["seg_of_labels"]["mean"] == 60.5
    assert first["scores"]["cam_of_labels"] is None and "cam_of_labels" not in first["not_trained"]
    assert "seg_of_labels" in third["not_trained"]
    table = (tmp_path / "a" / "ablation.md").read_text()
    assert "of the seeds; labels: background, striped disc\n" in table
    assert "| segmentation, 2 labels | CAM, 2 labels |" in table
    assert "| as it is | 2 | 60.5 (60.0 to 61.0) | absent |" in table
    with pytest.raises(UserError, match=r"--labels: 'lion' is no label: name some of background"):
        run(labels=["background", "lion"])


def test_finished_runs_are_kept(trained, grid, tmp_path):
    first = ablate(tmp_path, grid)
    trained.clear()
    assert ablate(tmp_path, grid) == first and trained == []
    ablate(tmp_path, grid, seeds=(0, 7))
    assert trained == ["as it is/seed_7", "no ptc/seed_7", "cls/seed_7"]


def test_results_of_fewer_steps_do_not_count(trained, grid, tmp_path, monkeypatch):
    ablate(tmp_path, grid)

    monkeypatch.setattr(loop, "train_until_stopped", stops)
    with pytest.raises(Preempted):
        ablate(tmp_path, grid, "total_steps=300")
    report = json.loads((tmp_path / "a" / "ablation.json").read_text())
    assert [v["seeds_finished"] for v in report["variants"]] == [0, 0, 0]


def test_a_table_of_some_runs(trained, grid, tmp_path, monkeypatch):
    ablate(tmp_path, grid, seeds=(0,))

    monkeypatch.setattr(loop, "train_until_stopped", stops)
    with pytest.raises(Preempted):
        ablate(tmp_path, grid)
    report = json.loads((tmp_path / "a" / "ablation.json").read_text())
    assert not report["complete"]
    table = (tmp_path / "a" / "ablation.md").read_text()
    assert "| as it is | 1 of 2 | 50.0 | 60.0 | absent | 90.0 |" in table
    for path in (tmp_path / "a" / "as it is").glob("*/results.json"):
        path.unlink()
    with pytest.raises(Preempted):
        ablate(tmp_path, grid)
    table = (tmp_path / "a" / "ablation.md").read_text()
    assert "| as it is | 0 of 2 |  |  |  |  |" in table and "| no ptc | 1 of 2 | 42.0" in table


def test_a_score_that_some_runs_lack(trained, grid, tmp_path):
    ablate(tmp_path, grid)
    path = tmp_path / "a" / "as it is" / "seed_1" / "results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seg_miou": None}))
    row = ablate(tmp_path, grid)["variants"][0]
    assert row["scores"]["seg_miou"] == {"mean": 50, "lowest": 50, "highest": 50, "seeds": 1}
    assert "| as it is | 2 | 50.0, 1 of 2 |" in (tmp_path / "a" / "ablation.md").read_text()
    path.write_text(json.dumps(json.loads(path.read_text()) | {"cam_miou": "high"}))
    with pytest.raises(UserError, match=r"seed_1/results.json has no number as cam_miou: move it"):
        ablate(tmp_path, grid)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_last_step_ends_the_ablation(trained, grid, tmp_path, monkeypatch, number):
    train = loop.train_until_stopped

    def told(config, folder, preemption, **options):
        with preemption:
            os.kill(os.getpid(), number)
        train(config, folder, preemption, **options)

    monkeypatch.setattr(loop, "train_until_stopped", told)
    words = ["shapes", *WORDS, f"--grid={grid}", f"--out={tmp_path / 'a'}", "--seeds", "0", "1"]
    with pytest.raises(SystemExit) as stopped:
        commands.run("ablate", words)
    assert stopped.value.code == 75 and trained == ["as it is/seed_0"]
    monkeypatch.setattr(loop, "train_until_stopped", train)
    commands.run("ablate", words)
    assert len(trained) == len(set(trained)) == 6


def test_a_run_that_fails_does_not_stop_the_others(trained, grid, tmp_path, monkeypatch, capsys):
    train = loop.train_until_stopped

    def fails(config, folder, *args, **options):
        if config.seed == 1 and folder.parent.name == "no ptc":
            raise TrainingError("the loss is not finite")
        train(config, folder, *args, **options)

    monkeypatch.setattr(loop, "train_until_stopped", fails)
    with pytest.raises(TrainingError, match=r"1 of 6 runs failed: .*/no ptc/seed_1; see above"):
        ablate(tmp_path, grid)
    assert len(trained) == 5
    said = capsys.readouterr()
    assert "no ptc/seed_1 failed: the loss is not finite" in said.err and "1 of 2" in said.out


def test_a_folder_of_other_values_is_refused_before_training(trained, grid, tmp_path):
    ablate(tmp_path, grid)
    trained.clear()
    with pytest.raises(UserError) as refused:
        ablate(tmp_path, grid, "temperature=0.1", seeds=(2, 1))
    said = str(refused.value)
    assert "as it is/seed_1 holds a run with other values: temperature (0.5 there, 0.1 now)" in said
    assert "--override" not in said and trained == []


POSTER_TERMS = {
    "cls": {"cls"},
    "cls+aux": {"cls", "cls_aux"},
    "cls+aux+ptc": {"cls", "cls_aux", "ptc"},
    "cls+aux+ctc": {"cls", "cls_aux", "ctc"},
    "cls+aux+ptc+ctc": {"cls", "cls_aux", "ptc", "ctc"},
    "all": {"cls", "cls_aux", "ptc", "ctc", "seg", "reg"},
}


def test_the_posters_grid():
    whole = load_config("shapes", WORDS)
    variants = grids.read("poster", whole)
    configs = ablation.configured("shapes", WORDS, variants, grid="poster", seeds=[0])
    assert [variant.name for variant in variants] == list(POSTER_TERMS)
    for config, on in zip(configs, POSTER_TERMS.values(), strict=True):
        expected = {
            term: weights if term in on else ((0, 0.0),)
            for term, weights in whole.loss_weights.items()
        }
        assert config.to_dict() == whole.to_dict() | {"loss_weights": expected}


@pytest.mark.parametrize("name", sorted(grids.BUILT_IN.keys() - {"poster", "methods"}))
@pytest.mark.parametrize("start", ["shapes", "voc:deit_tiny", "voc:dinov2_small"])
def test_a_built_in_grid_varies_what_its_name_says(name, start):
    whole = load_config(start, ["temperature=0.3", "aux_layer=4"])
    variants = grids.read(name, whole)
    configs = [load_config(start, variant.words) for variant in variants]
    keys = {"crops": ("num_local_crops", "local_crop_size")}.get(name, (name,))
    found = [tuple(config[key] for key in keys) for config in configs]
    own = tuple(whole[key] for key in keys)
    if name == "aux_layer":
        own = (4 - backbone_from_name(whole.backbone).depth,)
    assert own in found and len(set(found)) == len(found) >= 4
    if name == "crops":
        assert {n for n, _ in found} >= {2, 4, 8, 16} and len({size for _, size in found}) >= 3
    for config, variant in zip(configs, variants, strict=True):
        validate(config, num_devices=1)
        assert grids._NAME.fullmatch(variant.name)
        changed = {key: whole[key] for key in keys}
        expected = load_config(start).to_dict() | changed
        assert config.to_dict() | changed == expected


@pytest.mark.parametrize("start", ["shapes", "voc:quick"])
def test_the_grid_of_methods_has_every_method_and_the_ceiling(start):
    whole = load_config(start)
    configs = {
        variant.name: load_config(start, variant.words) for variant in grids.read("methods", whole)
    }
    for config in configs.values():
        validate(config, num_devices=1)
    assert {config.method for config in configs.values()} == TERMS.keys()
    assert [name for name, config in configs.items() if config.propagate_cams] == [
        "toco, propagated"
    ]
    heads = [name for name, config in configs.items() if network_fields(config).get("image_head")]
    assert heads == ["toco_plus", "toco, image head"]
    scored = {name: scored_maps(config) for name, config in configs.items()}
    assert scored["true masks"] == ("seg",) and scored["toco"] == ("seg", "cam", "aux_cam")


def test_variants_that_differ_only_after_the_last_step_are_refused(trained, grid, tmp_path):
    # PTC begins at step 80 in this configuration.
    with pytest.raises(UserError, match=r"'no ptc' of .* as 'as it is': .* total_steps=80$"):
        ablate(tmp_path, grid, "total_steps=80")
    assert ablate(tmp_path, grid, "total_steps=81")["complete"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("{}", "must be a list of variants"),
        ("[]", "must be a list of variants"),
        ("[3]", "entry 1 is no variant with a name"),
        ('[{"name": "a"}, {"set": []}]', "entry 2 is no variant with a name"),
        ('[{"name": "a", "sets": []}]', "entry 1 has 'sets', and a variant has name and set only"),
        ('[{"name": "a"}, {"name": "A"}]', "has two variants called 'A': rename one"),
        ('[{"name": "a", "set": "temperature=1"}]', "set='temperature=1' must be a list of key"),
        ('[{"name": "a", "set": [3]}]', "set=<list> must be a list of key=value words"),
        ('[{"name": "a", "set": ["tau=1"]}]', "variant 'a' of .*: .* has no key 'tau'"),
        ('[{"name": "a", "set": ["temperature"]}]', "variant 'a' of .*: temperature has no value"),
        ('[{"name": "a", "set": ["temperature=x"]}]', "variant 'a' of .* must be of type float"),
        ('[{"name": "a"}, {"name": "b", "set": ["temperature=0.0"]}]', "'b' of .* must be above 0"),
        ('[{"name": "a", "set": ["seed=4"]}]', "seed=4 in an ablation: give the seeds as in"),
        ('[{"name": "a"}, {"name": "b", "set": []}]', "'b' of .* computes the same as 'a': remove"),
        ('[{"name": "a", "set": ["batch_size=3"]}]', "'a' of .*batch_size=3 must be a multiple"),
    ],
)
def test_a_grid_that_cannot_be_used(content, message, trained, tmp_path):
    path = tmp_path / "grid.json"
    path.write_text(content)
    with pytest.raises(UserError, match=message) as refused:
        ablate(tmp_path, str(path))
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)
    assert trained == [] and not (tmp_path / "a").exists()


NO_FOLDERS = ["", ".", "..", ".a", "a/b", "a\\b", "/a", "a.", " a", "a ", "a\n", "a|b", "x" * 81, 3]


@pytest.mark.parametrize("name", [*NO_FOLDERS, "ablation.json", "ablation.md"])
def test_a_name_that_is_no_folders(name, tmp_path):
    path = tmp_path / "grid.json"
    path.write_text(json.dumps([{"name": name}]))
    with pytest.raises(grids.GridError, match=r"entry 1: name=.*cannot be the name of a folder"):
        grids.read(str(path), load_config("shapes"))


def test_a_grid_that_is_not_there_or_too_large(tmp_path):
    with pytest.raises(grids.GridError, match=r"no grid 'postre': use one of poster, .* or a JSON"):
        grids.read("postre", load_config("shapes"))
    large = tmp_path / "large.json"
    large.write_bytes(b" " * (2**20 + 1))
    with pytest.raises(grids.GridError, match="larger than 1 MiB"):
        grids.read(str(large), load_config("shapes"))


@pytest.mark.parametrize(
    ("words", "seeds", "message"),
    [
        (["temperature=x"], [0], "^temperature=x: the value must be of type float"),
        (["seed=3"], [0], "^seed=3 in an ablation: give the seeds as in --seeds 0 1 2"),
        ([], [0, 1, 0], "^--seeds names 0 twice"),
        ([], [2**32], "seed=4294967296 must lie between 0 and 4294967295"),
    ],
)
def test_words_for_all_variants(words, seeds, message, trained, grid, tmp_path):
    with pytest.raises(UserError, match=message):
        ablate(tmp_path, grid, *words, seeds=seeds)
    assert trained == []
