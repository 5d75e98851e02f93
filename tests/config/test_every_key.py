"""Every key of a configuration changes what it should where it is handed on, and nothing beside.

`KEYS` has an entry for each key of `configs/voc.py`: another value, and for each stage that the key
reaches what of that stage's results becomes different, all else staying equal. A stage is a
function of a configuration; it calls the code's own factories on a tiny network or on stand-ins.
"""

import contextlib
import dataclasses
import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import load_config, make_tiny
from eight_devices import make_batch
from ml_collections import ConfigDict
from platforms import made_for
from stand_in_run import History
from stand_in_wandb import StandIn

from toco_jax import data
from toco_jax.config import LOSS_TERMS
from toco_jax.config.methods import TERMS
from toco_jax.data.pipeline import configured_batches
from toco_jax.data.sources.shapes import ShapesSource
from toco_jax.evaluation import squashed
from toco_jax.method import toco
from toco_jax.method.methods import METHODS
from toco_jax.method.phases import phase_at
from toco_jax.run import checkpoints
from toco_jax.run.network import make_model
from toco_jax.runtime.sharding import make_mesh, shard_batch
from toco_jax.training import failures, step, tracking, validation
from toco_jax.training import loop as train
from toco_jax.training import start as beginning
from toco_jax.weights import class_rows
from toco_jax.weights import load as pretrained

EARLY, LATE = ({f"{part}@{at}" for part in ("encoder", "heads", "proj_head")} for at in (1, 4))
VIEWS = {"image", "view2", "local"}
BATCH = {"name", "cls_label", "valid_box", *VIEWS}

# Key: another value, and by stage the results that it changes.
KEYS = {
    "seed": (
        1,
        {
            "start": {"encoder", "heads", "teacher", "key"},
            "start from a file": {"heads", "key"},
            "step": {"draws"},
            "batches": BATCH - {"valid_box"},
            "sources": {"train.seed", "val.seed"},
        },
    ),
    "backbone": (
        "width=16,depth=3,heads=2,patch=16",
        {"model": {"backbone"}, "start": {"grid"}, "start from a file": {"loaded"}},
    ),
    "init": ("a.npz", {"start": {"encoder", "teacher", "loaded", "grid"}}),
    "num_classes": (5, {"model": {"num_classes"}, "start from a file": {"loaded"}}),
    "aux_layer": (
        -1,
        {"model": {"aux_layer"}, "losses": {"cls_aux", "roi_mask", "ptc", "ctc", "total"}},
    ),
    "decoder_width": (16, {"model": {"decoder_width"}, "start from a file": {"loaded"}}),
    "decoder_dilation": (
        2,
        {"model": {"decoder_dilation"}, "losses": {"seg", "reg", "total"}},
    ),
    "compute_dtype": ("float32", {"model": set(), "model on a GPU": {"dtype", "attention"}}),
    "machine.attention": ("xla", {"model": set(), "model on a GPU": {"attention"}}),
    "machine.low_memory": ("on", {"model": {"remat"}}),
    "crop_size": (
        48,
        {
            "start": {"grid"},
            "batches": {"valid_box", *VIEWS},
            "evaluation": {"image"},
        },
    ),
    "local_crop_size": (8, {"losses": {"ctc", "total"}}),
    "num_local_crops": (3, {"losses": {"ctc", "total"}}),
    "cam_scales": ((1.0, 0.5), {"losses": {"roi_mask", "ptc", "ctc", "seg", "reg", "total"}}),
    "propagate_cams": (
        True,
        {
            "model": {"propagate_cams"},
            "losses": {"roi_mask", "ptc", "ctc", "seg", "reg", "total"},
        },
    ),
    "low_thre": (0.4, {"losses": {"roi_mask", "ptc", "ctc", "seg", "reg", "total"}}),
    # Of the labels in training only those above `high_thre` are left.
    "bkg_thre": (0.6, {"losses": set(), "evaluation": {"cam", "aux_cam"}}),
    "high_thre": (0.55, {"losses": {"roi_mask", "ptc", "seg", "reg", "total"}}),
    "temperature": (0.7, {"losses": {"ctc", "total"}}),
    "method": (
        "toco_plus",
        {"losses": {"roi_mask", "seg", "reg", "total"}, "start": {"high_thre"}},
    ),
    "high_thre_drop": (0.1, {"losses of toco_plus": {"seg", "reg", "total"}}),
    "ema_decay": (0.99, {"step": {"ema"}}),
    "ema_momentum": (0.8, {"step": {"teacher"}}),
    "loss_weights.cls": (((0, 2.0),), {"losses": {"total"}, "loop": {"weights"}}),
    "loss_weights.cls_aux": (((0, 2.0),), {"losses": {"total"}, "loop": {"weights"}}),
    "loss_weights.ptc": (((0, 0.0), (3, 0.3)), {"losses": {"total"}, "loop": {"weights"}}),
    "loss_weights.ctc": (((0, 0.0), (3, 0.3)), {"losses": {"total"}, "loop": {"weights"}}),
    "loss_weights.seg": (((0, 0.2),), {"losses": {"total"}, "loop": {"weights"}}),
    "loss_weights.reg": (((0, 1e3),), {"losses": {"total"}, "loop": {"weights"}}),
    "loss_weights.swap": (((0, 0.2),), {"losses of toco_plus": {"swap", "total"}}),
    "loss_weights.cons": (((0, 0.2),), {"losses of toco_plus": {"cons", "total"}}),
    "loss_weights.absent": (((0, 0.2),), {"losses of toco_plus": {"absent", "total"}}),
    "loss_weights.aff": (((0, 0.2),), {"losses of afa": {"aff", "total"}}),
    "loss_weights.cls_img": (
        ((0, 0.2),),
        {"model": {"image_head"}, "losses": {"cls_img", "total"}, "loop": {"weights"}},
    ),
    "loss_weights.sup": (((0, 0.2),), {"losses": {"sup", "total"}, "loop": {"weights"}}),
    "pseudo_label_cam": (
        ((0, "cam"), (3, "aux_cam")),
        {"losses": {"seg", "reg", "total"}, "loop": {"cam"}},
    ),
    "as_published": (True, {"losses": {"ptc", "seg", "total"}, "batches": VIEWS}),
    "batch_size": (8, {"batches": BATCH, "evaluation": {"images", "batch"}}),
    "group_size": (2, {"losses": {"ptc", "seg", "total"}}),
    # The parts are smaller, the step is the same.
    "machine.accumulate": (2, {"step": {"part"}}),
    "machine.shard_optimizer": (True, {"step": {"placement"}}),
    "total_steps": (
        5,
        {"update": LATE, "loop": {"weights", "cam", "evaluated", "saved", "shown"}},
    ),
    "warmup_steps": (3, {"update": EARLY}),
    "learning_rate": (2e-3, {"update": EARLY | LATE}),
    "layer_lr_decay": (0.5, {"update": {"encoder@1", "encoder@4"}}),
    "head_lr_multiplier": (20.0, {"update": {"heads@1", "heads@4"}}),
    "projection_lr_multiplier": (20.0, {"update": {"proj_head@1", "proj_head@4"}}),
    "weight_decay": (0.1, {"update": EARLY | LATE}),
    # Adam's first step does not know how long the gradient is.
    "max_grad_norm": (1.0, {"update": EARLY | LATE}),
    "eval_every": (4, {"loop": {"evaluated", "saved"}}),
    "eval_batches": (1, {"evaluation": {"images"}}),
    "save_every": (3, {"loop": {"saved"}}),
    "log_every": (3, {"loop": {"shown"}}),
    "on_nan": ("skip", {"loop": {"on_nan"}}),
    "wandb": ("project", {"loop": {"online"}}),
    "data.source": ("folder", {"sources": {"train.name", "val.name"}}),
    "data.root": ("elsewhere", {"sources": {"train.root", "val.root"}}),
    "data.train_split": ("more", {"sources": {"train.split", "train.splits", "val.splits"}}),
    "data.val_split": ("more", {"sources": {"val.split", "train.splits", "val.splits"}}),
    "data.labels": ("masks", {"sources": {"train.labels", "val.labels"}}),
    "data.label_separator": (
        "|",
        {"sources": {"train.label_separator", "val.label_separator"}},
    ),
    "data.masks": (
        "truth",
        {"sources": {"train.mask_folder", "val.mask_folder", "train.all_masks", "val.all_masks"}},
    ),
    "data.train_masks": (
        "truth",
        {"sources": {"train.mask_folder", "train.all_masks", "val.all_masks"}},
    ),
    "data.mask_border": (1, {"batches with masks": {"mask"}}),
    "data.mask_foreground": (
        255,
        {"sources": {"train.mask_foreground", "val.mask_foreground"}},
    ),
    "data.split_seed": (5, {"sources": {"train.split_seed", "val.split_seed"}}),
    "data.val_fraction": (0.5, {"sources": {"train.val_fraction", "val.val_fraction"}}),
    "data.on_error": ("skip", {"batches": {"skipped"}}),
    "machine.num_threads": (2, {"batches": set()}),
    "data.scale_range": ((0.3, 0.35), {"batches": {"image", "local", "valid_box"}}),
    "data.blur_sigma": ((2.0, 4.0), {"batches": VIEWS}),
}


def flat_keys(config: ConfigDict) -> set[str]:
    """The keys of a configuration, those of its groups with a dot."""
    groups = {key for key in config if isinstance(config[key], ConfigDict)}
    inner = {f"{group}.{key}" for group in groups for key in config[group]}
    return set(config) - groups | inner


def are_equal(left, right) -> bool:
    """Whether two trees have one structure and equal leaves."""
    if jax.tree.structure(left) != jax.tree.structure(right):
        return False
    return jax.tree.all(jax.tree.map(np.array_equal, left, right))


def tiny(**changes) -> ConfigDict:
    """The configuration of a tiny run."""
    return make_tiny(load_config("voc")(), **changes)


def test_every_key_has_an_entry():
    assert flat_keys(load_config("voc")()) == set(KEYS)


@pytest.mark.parametrize(
    ("key", "stage"), [(key, stage) for key, (_, stages) in KEYS.items() for stage in stages]
)
def test_key_changes_what_it_should(key, stage, usual, stages):
    value, expected = KEYS[key]
    before, after = usual(stage), stages[stage](tiny(**{key: value}))
    changed = {
        name
        for name in before.keys() | after.keys()
        if name not in before or name not in after or not are_equal(before[name], after[name])
    }
    assert changed == expected[stage]


@pytest.mark.parametrize("term", TERMS["toco"])
def test_a_term_of_weight_0_is_left_out_of_the_losses(term, usual, stages):
    terms = stages["losses"](tiny(**{f"loss_weights.{term}": ((0, 0.0),)}))
    usual_terms = usual("losses")
    assert terms.keys() == usual_terms.keys() - {term}
    for name in terms.keys() - {"total", "roi_mask"}:
        np.testing.assert_allclose(terms[name], usual_terms[name], rtol=1e-5, err_msg=name)


@pytest.fixture(scope="module")
def usual(stages):
    """Function from a stage to its results for the unchanged configuration, made once."""
    return functools.cache(lambda stage: stages[stage](tiny()))


@pytest.fixture(scope="module")
def params():
    """Parameters of the tiny network that tell classes apart."""
    model = make_model(tiny(), grid=4)
    shapes = jax.eval_shape(functools.partial(step.init_params, model), jax.random.key(0))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: jnp.asarray(0.3 * rng.standard_normal(x.shape, "f")), shapes)


@pytest.fixture(scope="module")
def stages(params, tmp_path_factory):
    """The stages by name: functions from a configuration to a dict of results."""
    return {
        "model": model_fields,
        "model on a GPU": model_on_a_gpu,
        "losses": functools.partial(losses, params),
        "losses of toco_plus": functools.partial(losses_of, "toco_plus", params),
        "losses of afa": functools.partial(losses_of, "afa", params),
        "update": functools.partial(update, params),
        "start": start,
        "start from a file": start_from_a_file,
        "step": one_step,
        "batches": batches,
        "batches with masks": functools.partial(batches, masks=True),
        "sources": sources,
        "evaluation": evaluation,
        "loop": lambda config: loop(config, tmp_path_factory.mktemp("loop")),
    }


def model_fields(config):
    """What the network is made of."""
    model = make_model(config, grid=4)
    names = [field.name for field in dataclasses.fields(model)]
    fields = {name: getattr(model, name) for name in names if name not in ("parent", "name")}
    return fields | dataclasses.asdict(fields.pop("compute"))


def model_on_a_gpu(config):
    """The same where there is a choice of attention."""
    with made_for("gpu"):
        return model_fields(config)


def losses(params, config):
    """Terms of the fourth step, their weighted sum, and where local crops may come from."""
    model = make_model(config, grid=4)
    method = METHODS[config.method]
    loss_fn = method.make_loss_fn(config, model, phase_at(config, 3), num_present=4)
    teacher = jax.tree.map(lambda x: 0.9 * x, params)
    extra = {"proj_head": params["proj_head"], "ema": teacher}
    if config.method == "toco_plus":
        extra["high_thre"] = method.high_thre_at(config, 9)
    batch = make_batch(0, 4) | {"valid_box": np.tile(np.int32([0, 32, 4, 32]), (4, 1))}
    batch["mask"] = np.tile(np.arange(32, dtype=np.uint8) % 5, (4, 32, 1))
    batch = jax.tree.map(jnp.asarray, batch)
    keys = jax.random.split(jax.random.key(1), 4)
    width, num = params["classifier"]["kernel"].shape
    head = {"kernel": jnp.full((width, num), 0.3), "bias": jnp.zeros(num)}
    params = params | {"img_encoder": params["encoder"], "img_head": head}
    aux = loss_fn(params, extra, keys, batch)[1]
    return aux["terms"] | {"roi_mask": aux.get("roi_mask")}


def losses_of(method, params, config):
    """The same of another method."""
    config.method = method
    for term in set(LOSS_TERMS) - set(TERMS[method]):
        config.loss_weights[term] = ((0, 0.0),)
    head = {"kernel": jnp.full((4, 1), 0.3), "bias": jnp.zeros(1)}
    return losses(params | ({"aff_head": head} if method == "afa" else {}), config)


def update(params, config):
    """Updates of one parameter of each group, after gradients of two lengths."""
    chosen = {
        "encoder": params["encoder"]["norm"]["scale"],
        "heads": params["classifier"]["kernel"],
        "proj_head": params["proj_head"]["mlp_0"]["bias"],
    }
    optimizer = step.make_optimizer(config, chosen)
    state, found = optimizer.init(chosen), {}
    for at, length in ((1, 1.0), (4, 100.0)):
        grads = jax.tree.map(lambda x, length=length: length * x, chosen)
        updates, state = optimizer.update(grads, state, chosen, step=jnp.int32(at))
        found |= {f"{part}@{at}": updates[part] for part in chosen}
    return found


def start(config):
    """The first state, around a stand-in for the network's initialisation and for the file."""
    found = {}

    def load(init, **sizes):
        found["loaded"] = {"init": init} | sizes
        head = {"w": jnp.full(3, 0.25)}
        return {"params": {"encoder": head}, "teacher_params": head, "grid": 9, "notes": []}

    def make_model(config, grid):
        found["grid"] = grid

    def init_params(model, key):
        return {part: {"w": jax.random.normal(key, 3)} for part in ("encoder", "proj_head")}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrained, "load", load)
        patch.setattr(class_rows, "names_of", lambda init: None)
        patch.setattr(beginning, "make_model", make_model)
        patch.setattr(beginning, "init_params", init_params)
        _, state = beginning.start_state(config)
    return found | {
        "encoder": state.params["encoder"],
        "heads": state.params["proj_head"],
        "teacher": state.extra["proj_head"],
        "high_thre": state.extra.get("high_thre"),
        "key": jax.random.key_data(state.key),
    }


def start_from_a_file(config):
    """The same where weights are given."""
    config.init = "some.safetensors"
    return start(config)


def one_step(config):
    """A training step on two devices, around a stand-in for the objective."""

    def make_loss_fn(config, model, phase, *, num_present):
        def loss_fn(params, extra, keys, batch):
            draws = jax.vmap(lambda key: jax.random.bits(key, dtype=jnp.uint8))(keys)
            terms = {"draws": draws.astype(jnp.float32).mean(), "part": jnp.float32(len(keys))}
            return sum(jnp.sum(x**2) for x in jax.tree.leaves(params)), {"terms": terms}

        return loss_fn

    params = {part: {"w": jnp.arange(1.0, 5.0)} for part in ("encoder", "proj_head")}
    state = step.init_state(config, params, {"w": jnp.zeros(4)})
    mesh = make_mesh(2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toco, "make_loss_fn", make_loss_fn)
        train_step = step.make_train_step(config, None, mesh, phase_at(config, 0), num_present=4)
        batch = shard_batch(make_batch(0, 4), mesh)
        state, terms = train_step(step.place_state(config, state, mesh), batch)
    return terms | {
        "params": state.params,
        "teacher": state.extra["proj_head"],
        "ema": state.extra.get("ema"),
        "placement": str(state.opt_state[1].mu["encoder"]["w"].sharding.spec),
    }


def batches(config, *, masks=False):
    """The second batch of training views."""
    stream = configured_batches(
        ShapesSource(split="train", seed=0, masks=masks), config, start_step=1
    )
    with contextlib.closing(stream):
        return next(stream)


def sources(config):
    """What the sources of training and of validation are opened with."""
    found = {}

    def open_source(name, **options):
        part = "val" if options["masks"] else "train"
        found.update({f"{part}.{key}": value for key, value in ({"name": name} | options).items()})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "open_source", open_source)
        data.open_configured(config, part="train", masks=False)
        data.open_configured(config, part="val", masks=True)
    return found


def evaluation(config):
    """An evaluation while training, around a stand-in for the network's maps."""
    rng = np.random.default_rng(0)
    maps = {"cam": rng.random((8, 8, 4), "f"), "aux_cam": rng.random((8, 8, 4), "f")}
    maps |= {"seg_logits": rng.random((8, 8, 5), "f"), "cls_logits": rng.random(4, "f")}
    sizes, seen, count = [], [], squashed.count

    def make_eval_step(config, model, mesh):
        def eval_step(params, images):
            sizes.append(len(images))
            return {name: np.stack([value] * len(images)) for name, value in maps.items()}

        return eval_step

    def watched(prediction, *args, **options):
        seen.append(prediction)
        return count(prediction, *args, **options)

    class Tracker:
        def write(self, step, values):
            pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(squashed, "make_eval_step", make_eval_step)
        patch.setattr(squashed, "count", watched)
        evaluator = validation.Evaluator(
            config, None, ShapesSource(split="val", seed=0, masks=True)
        )
        state = step.TrainState(np.int32(6), {}, {}, None, None)
        images = evaluator(state, Tracker())["images"]
    found = {name: seen[0].labels[name] for name in ("cam", "aux_cam", "seg")}
    return found | {"image": seen[0].record["image"], "images": images, "batch": sizes[0]}


def loop(config, workdir):
    """A whole run, around stand-ins for the step, the evaluation and the checkpoints."""
    found = {"weights": [], "cam": [], "evaluated": [], "saved": [], "shown": []}
    count = jax.jit(
        lambda state: (
            dataclasses.replace(state, step=state.step + 1),
            {"total": jnp.ones(()), step.LEFT_OUT: jnp.zeros(())},
        )
    )

    def make_train_step(config, model, mesh, phase, *, num_present):
        def train_step(state, batch):
            found["weights"].append(phase.weights)
            found["cam"].append(phase.pseudo_label_cam)
            return count(state)

        return train_step

    class Evaluator:
        def __init__(self, *args):
            pass

        def __call__(self, state, tracker):
            found["evaluated"].append(int(state.step))
            return {"seg_miou": 50.0}

    class Checkpoints:
        latest_step = None

        def __init__(self, workdir):
            pass

        def save(self, state, *, meta, miou):
            found["saved"].append((int(state.step), miou or 0.0))

        def close(self):
            pass

    class Tracker(tracking.Tracker):
        def progress(self, step, terms, images_per_step):
            found["shown"].append(step)

    class Failures(failures.Failures):
        def __init__(self, workdir, on_nan):
            super().__init__(workdir, on_nan)
            found["on_nan"] = on_nan

    class Preemption(contextlib.nullcontext):
        def stops(self, step):
            return False

    def start_state(config, weights, class_names):
        return None, step.init_state(config, {"proj_head": {"w": jnp.zeros(2)}})

    with pytest.MonkeyPatch.context() as patch:
        for stand_in in (make_train_step, Evaluator, History, Tracker, Failures):
            patch.setattr(train, stand_in.__name__, stand_in)
        patch.setattr(beginning, "start_state", start_state)
        patch.setattr(checkpoints, "Checkpoints", Checkpoints)
        patch.setitem(sys.modules, "wandb", wandb := StandIn())
        patch.setattr(train, "finish", lambda *args: {})
        train.train_until_stopped(config, workdir, Preemption())
    return found | {"online": [run.options["project"] for run in wandb.runs]}
