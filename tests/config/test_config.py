"""Configurations: impossible values are one sentence that names key, value and remedy."""

import itertools
import math

import pytest
from ml_collections import ConfigDict

from toco_jax.config import LOSS_TERMS, ConfigError, completed, flat_values, resolve, validate
from toco_jax.config.methods import TERMS
from toco_jax.method.phases import phase_at
from toco_jax.models.backbones import BACKBONES, Backbone, backbone_from_name
from toco_jax.run.config_files import load_config


def test_published_values_are_valid_for_every_variant(voc_config):
    for variant in BACKBONES:
        config = voc_config(variant)
        validate(config, num_devices=2)
        assert config.backbone == config.init == variant
    assert voc_config("dinov2_small").local_crop_size == 98


def test_defaults_are_the_published_values(voc_config):
    config = voc_config()
    published = {
        "aux_layer": -3,
        "num_classes": 20,
        "crop_size": 448,
        "local_crop_size": 96,
        "num_local_crops": 8,
        "cam_scales": (1.0, 0.5, 1.5),
        "low_thre": 0.25,
        "bkg_thre": 0.5,
        "high_thre": 0.7,
        "temperature": 0.5,
        "ema_momentum": 0.9,
        "batch_size": 4,
        "group_size": 2,
        "total_steps": 20_000,
        "warmup_steps": 1_500,
        "learning_rate": 6e-5,
        "head_lr_multiplier": 10,
        "projection_lr_multiplier": 10,
        "weight_decay": 0.01,
        "max_grad_norm": 0,
        "eval_every": 2_000,
    }
    assert {key: config[key] for key in published} == published
    assert (config.data.scale_range, config.data.blur_sigma) == ((0.5, 2.0), (0.1, 2.0))


def test_defaults_of_what_the_paper_does_not_say(voc_config):
    config = voc_config()
    # The defects of the released code are off, an evaluation takes all images.
    assert (config.as_published, config.eval_batches) == (False, 0)
    assert (config.seed, config.data.split_seed) == (0, 0)
    assert (config.save_every, config.log_every) == (1_000, 20)


@pytest.mark.parametrize("name", ["voc", "coco", "folder", "shapes", "second_stage"])
def test_every_file_is_valid_and_has_the_same_keys(get_config_of, name):
    config = get_config_of(name)()
    validate(config, num_devices=1)
    expected = get_config_of("voc")().to_dict()
    assert sorted(config.to_dict()) == sorted(expected)
    for group in ("data", "loss_weights", "machine"):
        assert sorted(config[group]) == sorted(expected[group])


@pytest.mark.parametrize("name", ["voc:quick", "folder:quick"])
@pytest.mark.parametrize("method", TERMS)
def test_the_recipe_for_small_budgets_is_valid_for_every_method(name, method):
    config = load_config(name, [f"method={method}"])
    validate(config, num_devices=1)
    assert (config.backbone, config.crop_size, config.total_steps) == ("deit_tiny", 224, 4000)
    late = [term for term in LOSS_TERMS if config.loss_weights[term][0] == (0, 0.0)]
    starts = {config.loss_weights[term][-1][0] for term in late} - {0}
    assert starts == {2800}  # all that needs maps begins together


def test_unknown_variant(voc_config):
    with pytest.raises(ValueError, match=r"unknown variant 'resnet'.*deit_base"):
        voc_config("resnet")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("crop_size", 450, "multiple of the patch side 16 up to 32767: use 448 or 464"),
        ("crop_size", 5, "crop_size=5 must be a positive multiple .* up to 32767: use 16$"),
        ("crop_size", 40_000, "crop_size=40000 must be .* up to 32767: use 32752$"),
        ("local_crop_size", 448, "local_crop_size=448 must be smaller than crop_size=448"),
        ("num_local_crops", 0, "num_local_crops=0"),
        ("cam_scales", (1.0, 0.0), "cam_scales="),
        ("low_thre", 0.6, "low < bkg < high.*low_thre=0.6"),
        ("high_thre", 0.4, "high_thre=0.4"),
        (
            "batch_size",
            6,
            "batch_size=6 must be a multiple of 2 devices x group_size=2: use 4 or 8",
        ),
        ("batch_size", 0, "batch_size=0"),
        ("warmup_steps", 20_000, "warmup_steps=20000 must be below total_steps=20000"),
        ("total_steps", 0, "total_steps=0 must be above 0"),
        ("learning_rate", -1.0, "learning_rate=-1.0"),
        ("method", "tocco", "method='tocco' must be one of toco"),
        ("ema_decay", 1.0, "ema_decay=1.0 must lie in"),
        ("ema_momentum", 1.0, "ema_momentum=1.0 must lie in"),
        ("compute_dtype", "float16", "compute_dtype='float16' must be one of auto, float32"),
        ("on_nan", "go on", "on_nan='go on' must be one of stop, skip"),
        ("machine.low_memory", "yes", "machine.low_memory='yes' must be one of auto, on, off"),
        ("machine.attention", "flash", "machine.attention='flash' must be one of auto, xla, cudnn"),
        ("machine.accumulate", 0, "machine.accumulate=0 must be at least 1"),
        ("machine.accumulate", 3, "group_size=2 x machine.accumulate=3: use 12 or 24"),
        ("backbone", "resnet50", "unknown backbone 'resnet50'"),
        ("backbone", "width=96,depth=6,heads=5,patch=8", "that the heads divide"),
        ("aux_layer", 12, "aux_layer=12 is not a block"),
        ("init", "", "init=''"),
        ("machine.num_threads", -1, "machine.num_threads=-1"),
        ("data.scale_range", (2.0, 0.5), "data.scale_range="),
        ("loss_weights.seg", ((5, 0.1),), "loss_weights.seg=.*start at step 0"),
        ("loss_weights.seg", ((0, -0.1),), "loss_weights.seg="),
        ("loss_weights.seg", (), "loss_weights.seg="),
        ("loss_weights.seg", 0.1, "loss_weights.seg="),
        ("loss_weights.seg", ((0, "much"),), "loss_weights.seg="),
        ("pseudo_label_cam", ((0, "final"),), "method='toco' makes labels from cam or aux_cam"),
        ("pseudo_label_cam", ((1, "cam"),), "pseudo_label_cam="),
        ("cam_scales", (), "cam_scales="),
        ("low_thre", -0.1, "0 <= low < bkg < high <= 1: low_thre=-0.1"),
        ("high_thre", 1.1, "low < bkg < high <= 1.*high_thre=1.1"),
        ("low_thre", 0.5, "low < bkg.*low_thre=0.5"),
        ("high_thre", 0.5, "bkg < high.*high_thre=0.5"),
        ("ema_momentum", -0.1, "ema_momentum=-0.1 must lie in"),
        ("data.scale_range", (0.0, 2.0), "data.scale_range="),
        ("data.blur_sigma", (-0.1, 2.0), "data.blur_sigma="),
        ("weight_decay", -0.1, "weight_decay=-0.1 must not be negative"),
        ("machine.accumulate", 2, "group_size=2 x machine.accumulate=2: use 8 or 16"),
        ("aux_layer", -13, "aux_layer=-13 is not a block"),
        ("crop_size", 0, "crop_size=0 must be a positive multiple"),
        ("seed", -1, "seed=-1 must lie between 0 and 4294967295"),
        ("seed", 2**32, "seed=4294967296 must lie between 0 and"),
        ("total_steps", 2**31, "total_steps=2147483648 must lie between"),
        ("total_steps", 10.5, "total_steps=10.5 must be of type int, such as total_steps=20000"),
        ("group_size", True, "group_size=True must be of type int"),
        ("as_published", "no", "as_published='no' must be of type bool"),
        ("learning_rate", 1e30, r"learning_rate=1e\+30, .* must be at most 1"),
        ("learning_rate", float("nan"), "learning_rate=nan must be finite"),
        ("learning_rate", float("inf"), "learning_rate=inf must be finite"),
        ("max_grad_norm", 1e39, r"max_grad_norm=1e\+39 must be finite in float32"),
        ("temperature", 1e-60, "temperature=1e-60 must be above 0"),  # 0 in float32
        ("learning_rate", "fast", "learning_rate='fast' must be of type float"),
        ("cam_scales", (1.0, float("inf")), "cam_scales=.* must be finite"),
        ("cam_scales", (1.0, 1e4), "cam_scales=.* between 16 and 32767 px"),
        ("cam_scales", ("1",), r"cam_scales=\('1',\) must be of type tuple of float"),
        ("cam_scales", 1.0, "cam_scales=1.0 must be of type tuple"),
        ("loss_weights.ptc", ((0, 1.0), (0.5, 1.0)), r"ptc=.* of type tuple of \(int, float\)"),
        ("loss_weights.ptc", ((0, "0.1"),), "loss_weights.ptc=.* must be of type tuple"),
        ("loss_weights.ptc", ((0, float("inf")),), "loss_weights.ptc=.* must be finite"),
        ("loss_weights.ptc", ((0, 1.0), (9, 1.0), (5, 2.0)), "loss_weights.ptc=.* and ascend"),
        ("loss_weights.new", ((0, 1.0),), r"loss_weights must name exactly .* \['new'\]"),
        ("data.scale_range", (1.0,), "data.scale_range=.* must be an ascending pair"),
        ("data.blur_sigma", (0.1, 1e9), "data.blur_sigma=.* up to 1000"),
        ("data.root", "a\0b", "data.root=.* null character"),
        ("data.root", None, "data.root=None must be of type str"),
        ("data.root", range(10**3), "data.root=range.0, 1000. must be of type str"),
        ("machine.num_threads", 10**6, "machine.num_threads=1000000 must lie between 0 and 1024"),
        ("backbone", "width=96,width=96,depth=6,heads=3,patch=8", "unknown backbone"),
        ("backbone", f"width={'9' * 5000},depth=6,heads=3,patch=8", "unknown backbone"),
        ("machine", 3, "has an unknown key 'machine'"),
        ("more", 3, "has an unknown key 'more': remove it"),
    ],
)
def test_impossible_values(voc_config, key, value, message):
    config = voc_config()
    with config.ignore_type(), config.unlocked():
        config.update_from_flattened_dict({key: value})
    with pytest.raises(ConfigError, match=message) as caught:
        validate(config, num_devices=2)
    assert "\n" not in str(caught.value)


# One of each type, what it may be read as, and what a typing error leaves.
HOSTILE = (
    None,
    True,
    -1,
    10**30,
    1.5,
    math.nan,
    1e300,
    "",
    "x",
    "\0",
    (),
    ("a",),
    ((0, None),),
    {},
)


def test_no_value_of_any_key_is_a_traceback(voc_config):
    config, refused = voc_config().unlock(), 0
    usual = flat_values(config.to_dict())
    for key, value in itertools.product(usual, HOSTILE):
        *parents, name = key.split(".")
        group = config[parents[0]] if parents else config
        with config.ignore_type():
            group[name] = value
        try:
            validate(config, num_devices=1)
        except ConfigError as error:
            refused += 1
            assert key.partition(".")[0] in str(error) and "\n" not in str(error)
        else:
            assert type(group[name]) is type(usual[key])
        with config.ignore_type():
            group[name] = usual[key]
    assert refused > 10 * len(usual)


def test_a_missing_key_is_named(voc_config):
    config = voc_config()
    with config.unlocked():
        del config.machine.accumulate
    with pytest.raises(ConfigError, match=r"lacks 'machine.accumulate': begin with .*defaults"):
        validate(config, num_devices=1)


def test_float32_has_no_attention_by_cudnn(voc_config):
    config = voc_config()
    config.machine.attention = "cudnn"
    for dtype in ("auto", "bfloat16"):
        config.compute_dtype = dtype
        validate(config, num_devices=2)
    config.compute_dtype = "float32"
    with pytest.raises(ConfigError, match="attention='cudnn' needs compute_dtype='bfloat16'"):
        validate(config, num_devices=2)


@pytest.mark.parametrize(
    "values",
    [
        {"low_thre": 0.0, "high_thre": 1.0, "ema_momentum": 0.0, "warmup_steps": 0},
        {"total_steps": 2, "warmup_steps": 1, "num_local_crops": 1, "weight_decay": 0.0},
        {"data.scale_range": (1.0, 1.0), "data.blur_sigma": (0.5, 0.5), "machine.num_threads": 0},
        {"batch_size": 1, "group_size": 1, "machine.accumulate": 1},
        {"local_crop_size": 432, "num_local_crops": 256, "aux_layer": -12},
        {"crop_size": 32, "local_crop_size": 16, "cam_scales": (0.5,), "aux_layer": 11},
        {"loss_weights.seg": ((0, 0.0),), "pseudo_label_cam": ((0, "aux_cam"), (1, "cam"))},
    ],
)
def test_extreme_values_are_taken(voc_config, values):
    config = voc_config()
    with config.ignore_type():
        config.update_from_flattened_dict(values)
    validate(config, num_devices=1)


@pytest.mark.parametrize(
    ("variant", "crop_size", "meant"),
    [
        ("deit_tiny", 224, "parts"),
        ("vit_base", 192, "parts"),
        ("vit_base", 208, "on"),
        ("vit_base", 448, "on"),
    ],
)
def test_large_encoders_keep_little_memory_on_a_cpu(voc_config, variant, crop_size, meant):
    config = voc_config(variant)
    config.crop_size = crop_size
    assert resolve(config, "cpu").machine.low_memory == meant
    assert resolve(config, "gpu").machine.low_memory == "off"
    config.machine.low_memory = "off"
    assert resolve(config, "cpu").machine.low_memory == "off"


def test_attention_of_cudnn_needs_a_gpu_and_bfloat16(voc_config):
    config = voc_config()
    assert resolve(config, "gpu").machine.attention == "cudnn"
    config.compute_dtype = "float32"
    assert resolve(config, "gpu").machine.attention == "xla"
    config.machine.attention = "cudnn"
    with pytest.raises(
        ConfigError, match=r"this is float32 on a gpu: use machine.attention='auto'"
    ):
        resolve(config, "gpu")
    config.compute_dtype = "bfloat16"
    assert resolve(config, "gpu").machine.attention == "cudnn"
    with pytest.raises(
        ConfigError, match=r"this is bfloat16 on a cpu: use machine.attention='auto'"
    ):
        resolve(config, "cpu")


def test_values_of_an_earlier_version_are_found_under_their_present_keys(voc_config):
    earlier = voc_config().to_dict()
    del earlier["machine"], earlier["data"]["mask_foreground"], earlier["data"]["split_seed"]
    earlier |= {"attention": "xla", "low_memory": "on", "accumulate": 2, "seed": 7}
    earlier["data"] |= {"num_threads": 3, "source": "folder"}
    earlier["cam_scales"] = [1.0, 0.5]  # as JSON has it
    now = completed(earlier)
    assert now.machine.to_dict() == {
        "attention": "xla",
        "low_memory": "on",
        "accumulate": 2,
        "shard_optimizer": False,
        "num_threads": 3,
    }
    assert (now.data.mask_foreground, now.data.split_seed) == (0, 7)
    assert now.cam_scales == (1.0, 0.5)
    assert flat_values(now.to_dict()).keys() == flat_values(voc_config().to_dict()).keys()
    assert completed(now.to_dict()) == now


def test_misspelt_key_is_refused(voc_config):
    with pytest.raises((AttributeError, KeyError), match="learning_rate"):
        voc_config().lock().learning_rat = 1.0


def test_missing_loss_term(voc_config):
    config = voc_config()
    config.loss_weights = ConfigDict({"cls": ((0, 1.0),)})
    with pytest.raises(ConfigError, match="loss_weights must name exactly cls, cls_aux, ptc"):
        validate(config, num_devices=1)


def test_phases_of_the_published_run(voc_config):
    config = voc_config()
    early, late = phase_at(config, 2000), phase_at(config, 2001)
    begun = {"cls": 1.0, "cls_aux": 1.0, "ptc": 0.2, "ctc": 0.5}
    assert {term: weight for term, weight in early.weights if weight} == begun
    added = {"seg": 0.1, "reg": 0.05}
    assert {term: weight for term, weight in late.weights if weight} == begun | added
    assert late == phase_at(config, 19_999)
    assert early.pseudo_label_cam == "cam"


def test_backbone_spelt_out():
    spec = backbone_from_name("width=96,depth=6,heads=3,patch=8")
    assert spec == Backbone(96, 6, 3, patch=8)
    more = backbone_from_name("width=96,depth=6,heads=3,patch=8,layer_scale=1,registers=4")
    assert more == Backbone(96, 6, 3, patch=8, registers=4, layer_scale=True)
    assert backbone_from_name("width=96,depth=6,heads=3,patch=8,half_colours=1").half_colours
    assert more.num_leading == 5 and spec.num_leading == 1
    for wrong in (
        *("width=96,depth=6,heads=3", "width=96,depth=x,heads=3,patch=8", ""),
        *("layer_scale=1,registers=4", "width=96,depth=6,heads=3,patch=8,layer_scale=2"),
        "width=96,depth=6,heads=3,patch=8,registers=1025",
        "width=96,depth=6,heads=3,patch=8,mlp_ratio=0",
        "width=96,depth=6,heads=3,patch=8,rotary=1,layer_scale=1",
        "width=96,depth=6,heads=16,patch=8,rotary=1,layer_scale=1,registers=4",
    ):
        with pytest.raises(ValueError, match="backbone"):
            backbone_from_name(wrong)
