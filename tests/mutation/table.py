"""What is mutated, the tests that concern it, mutants made by hand and equivalent ones.

Where code moves, this is the file to change.
"""

# ruff: noqa: E501

# Module: the tests that concern it, the quickest first.
MODULES = {
    "toco_jax/evaluation/metrics.py": ("tests/evaluation/test_metrics.py",),
    "toco_jax/evaluation/scoring.py": ("tests/evaluation/test_scoring.py",),
    "toco_jax/evaluation/counting.py": (
        *("tests/evaluation/test_scoring.py", "tests/evaluation/test_squashed.py"),
        "tests/evaluation/test_native.py",
    ),
    "toco_jax/evaluation/protocols.py": (
        *("tests/evaluation/test_protocols.py", "tests/evaluation/test_scoring.py"),
    ),
    "toco_jax/config/keys.py": ("tests/config/test_config.py", "tests/data/test_configs.py"),
    "toco_jax/config/checks.py": ("tests/config/test_config.py", "tests/data/test_configs.py"),
    "toco_jax/config/auto.py": ("tests/config/test_config.py",),
    "toco_jax/training/optim.py": ("tests/training/test_optim.py",),
    "toco_jax/method/crops.py": ("tests/method/test_crops.py",),
    "toco_jax/method/cams.py": ("tests/method/test_cams.py",),
    "toco_jax/data/pipeline.py": (
        *("tests/data/test_pipeline.py", "tests/config/test_every_key.py"),
        *("-k", "pipeline or batches"),
    ),
    "toco_jax/method/par.py": ("tests/method/test_par.py",),
    "toco_jax/method/losses.py": ("tests/method/test_losses.py",),
    "toco_jax/weights/layouts.py": ("tests/weights/test_load.py", "-k", "not golden"),
    "toco_jax/weights/load.py": (
        *("tests/weights/test_load.py", "tests/convert/test_convert.py"),
        *("-k", "not golden and not without_torch and not starts_from_each"),
    ),
    "toco_jax/weights/origin.py": (
        *(
            "tests/weights/test_origin.py",
            "tests/weights/test_load.py",
            "tests/convert/test_convert.py",
        ),
        *("-k", "not golden and not without_torch and not starts_from_each"),
    ),
    "toco_jax/weights/backbone_files.py": (
        *("tests/weights/test_load.py", "tests/weights/test_recognise.py"),
        *("-k", "not golden and not without_torch and not starts_from_each"),
    ),
    "toco_jax/weights/recognise.py": ("tests/weights/test_recognise.py",),
    "toco_jax/inference/segmenter.py": ("tests/test_predict.py",),
    "toco_jax/inference/formats/components.py": ("tests/inference/test_mask_formats.py",),
    "toco_jax/inference/formats/outlines.py": ("tests/inference/test_mask_formats.py",),
    "toco_jax/inference/formats/coco_panoptic.py": ("tests/inference/test_mask_formats.py",),
    "toco_jax/inference/formats/cvat.py": ("tests/inference/test_mask_formats_of_annotators.py",),
    "toco_jax/inference/formats/label_studio.py": (
        "tests/inference/test_mask_formats_of_annotators.py",
    ),
    "toco_jax/inference/refinement.py": (
        *("tests/inference/test_refinement.py", "tests/inference/test_native.py"),
    ),
    "toco_jax/evaluation/native.py": (
        *(
            "tests/evaluation/test_native.py",
            "tests/wiring/test_evaluate.py",
            "tests/test_evaluate.py",
        ),
        *("-k", "not two_processes"),
    ),
    "toco_jax/evaluation/squashed.py": (
        *("tests/evaluation/test_squashed.py", "tests/config/test_every_key.py"),
        *("tests/wiring/test_evaluate.py", "-k", "evaluat or validation"),
    ),
    "toco_jax/training/step.py": (
        *(
            "tests/config/test_every_key.py",
            "tests/training/test_step.py",
            "tests/wiring/test_step.py",
        ),
        *("tests/runtime/test_sharding.py", "-k", "not losses and not golden"),
    ),
    "toco_jax/method/toco.py": (
        *(
            "tests/wiring/test_step.py",
            "tests/config/test_every_key.py",
            "tests/training/test_step.py",
        ),
        *("-k", "not golden and (wiring or losses or class_maps)"),
    ),
}
_WIRING_TRAIN = "tests/wiring/test_train.py"
_KEYS = "tests/config/test_every_key.py"
# Modules of which only mutants made by hand are run.
ONLY_BY_HAND = {
    "toco_jax/training/loop.py": (_KEYS, _WIRING_TRAIN, "-k", "loop or wiring"),
    "toco_jax/training/start.py": (_KEYS, _WIRING_TRAIN, "-k", "start or wiring"),
    "toco_jax/run/checkpoints.py": (_WIRING_TRAIN, "-k", "best"),
    "toco_jax/inference/native.py": ("tests/wiring/test_evaluate.py",),
    "toco_jax/method/numbers.py": MODULES["toco_jax/method/toco.py"],
}

# Module: mutants made by hand, each a name, a text that the module holds once, and its replacement.
BY_HAND = {
    "toco_jax/training/start.py": (
        (
            "the network's own start in place of the loaded one",
            "params | loaded",
            "loaded | params",
        ),
        (
            "loaded teacher left out",
            'params | loaded, weights["teacher_params"])',
            "params | loaded)",
        ),
        (
            "initialisation does not depend on the seed",
            "(jax.random.key(config.seed))",
            "(jax.random.key(0))",
        ),
    ),
    "toco_jax/training/loop.py": (
        (
            "the phase of the first step for all steps",
            "phase = phase_at(config, step)",
            "phase = phase_at(config, 0)",
        ),
    ),
    "toco_jax/training/step.py": (
        (
            "teacher frozen",
            "extra = METHODS[config.method].moved_extra(config, state)",
            "extra = state.extra",
        ),
        (
            "moved teacher not kept",
            "updates),\n        extra=extra,",
            "updates),",
        ),
        (
            "teacher moved after the losses",
            "all_grads(state.params, extra, keys",
            "all_grads(state.params, state.extra, keys",
        ),
        (
            "one key for all steps",
            "jax.random.fold_in(jax.random.fold_in(state.key, _CROPS), state.step)",
            "jax.random.fold_in(state.key, _CROPS)",
        ),
        (
            "one key for all images",
            'jax.random.split(crop_key, batch["image"].shape[0])',
            'jnp.stack([crop_key] * batch["image"].shape[0])',
        ),
        (
            "projection multiplier from the heads",
            "projection_lr_multiplier=config.projection_lr_multiplier",
            "projection_lr_multiplier=config.head_lr_multiplier",
        ),
        ("clip dropped", "max_grad_norm=config.max_grad_norm,", ""),
        (
            "seed not passed to the draws",
            "key=jax.random.key(config.seed)",
            "key=jax.random.key(0)",
        ),
        ("moments not kept", "        opt_state=opt_state,\n    )", "    )"),
    ),
    "toco_jax/method/numbers.py": (
        ("unscaled box by default", "1 if config.as_published else patch", "1"),
        ("scaled box as published", "1 if config.as_published else patch", "patch"),
        ("truncated image by default", '"truncated": config.as_published', '"truncated": True'),
        ("whole image as published", '"truncated": config.as_published', '"truncated": False'),
        ("always the final CAM", '"source": phase.pseudo_label_cam', '"source": "cam"'),
    ),
    "toco_jax/method/toco.py": (
        (
            "affinity from the final CAM",
            'resize(seen["full_aux_cam"], grid)',
            'resize(seen["full_cam"], grid)',
        ),
        (
            "regions from the final CAM",
            'cams.cam_to_roi_mask(seen["full_aux_cam"]',
            'cams.cam_to_roi_mask(seen["full_cam"]',
        ),
        ("crops of view 1", 'seen["local"], roi_mask', 'seen["image"], roi_mask'),
        ("the second view is the first", 'normalize(seen["view2"])', "view1"),
        (
            "the teacher has a gradient",
            "jax.lax.stop_gradient(teacher(cls_tokens))",
            "teacher(cls_tokens)",
        ),
        (
            "the teacher sees the two views in turn",
            "teacher(cls_tokens)",
            "teacher(jnp.flip(cls_tokens, 0))",
        ),
    ),
    "toco_jax/evaluation/squashed.py": (
        (
            "CAM threshold of the evaluation not passed on",
            "bkg_thre=self._config.bkg_thre",
            "bkg_thre=0.5",
        ),
        (
            "aux CAM scored from the CAM",
            "resize_map(outputs[name], size)",
            'resize_map(outputs["cam"], size)',
        ),
        (
            "CAM and aux CAM swapped",
            '{"cam": cam, "aux_cam": aux_cam}',
            '{"cam": aux_cam, "aux_cam": cam}',
        ),
        (
            "unscaled maps swapped",
            'unscaled=(out["cam"], out["aux_cam"])',
            'unscaled=(out["aux_cam"], out["cam"])',
        ),
    ),
    "toco_jax/evaluation/native.py": (
        (
            "native aux CAM from the CAM",
            "maps.cam_of(name, classes)",
            'maps.cam_of("cam", classes)',
        ),
        ("pseudo labels from the aux CAM", 'if name == "cam" and', 'if name == "aux_cam" and'),
    ),
    "toco_jax/inference/native.py": (
        (
            "native maps swapped",
            'aux_cam=tuple(pair("aux_cam", i, scale)',
            'aux_cam=tuple(pair("cam", i, scale)',
        ),
        ("mirror image not mirrored back", "straight, mirrored[:, ::-1]", "straight, mirrored"),
    ),
    "toco_jax/run/checkpoints.py": (
        (
            "best checkpoint not kept",
            "preservation_policy.AnyPreservationPolicy(policies)",
            "preservation_policy.AnyPreservationPolicy(policies[:1])",
        ),
        (
            "worst checkpoint kept",
            "lambda metrics: metrics[_BEST]",
            "lambda metrics: -metrics[_BEST]",
        ),
        (
            "score not saved",
            "metrics=None if miou is None else {_BEST: miou}",
            "metrics=None",
        ),
    ),
    "toco_jax/data/pipeline.py": (
        ("seed not passed on", '"seed": config.seed', '"seed": 0'),
        ("scale range not passed on", '"scale_range": tuple(data.scale_range),', ""),
        ("blur not passed on", '"blur_sigma": tuple(data.blur_sigma),', ""),
        ("scale range not passed to the views", "            scale_range=scale_range,\n", ""),
        ("blur not passed to the views", "            blur_sigma=blur_sigma,\n", ""),
    ),
    "toco_jax/inference/segmenter.py": (
        (
            "background score 0 in masks from CAMs",
            "self._run.config.bkg_thre, np.float32",
            "0.0, np.float32",
        ),
        (
            "always the final CAM",
            'cams if self._source == "cam" else maps.cam_of(self._source, classes)',
            "cams",
        ),
        (
            "the decoder for every source",
            'if self._source == "seg":\n            mask',
            "if True:\n            mask",
        ),
    ),
}

# Module: function and change of a mutant that computes the same: the reason.
EQUIVALENT = {
    "toco_jax/inference/refinement.py": {
        (
            "par_labels",
            "return np.asarray(label[0, :height, :width]) -> return np.asarray(label[ 1, :height, :width])",
        ): "JAX takes the last entry for one beyond it, and there is one entry",
        (
            "par_labels",
            "return np.asarray(label[0, :height, :width]) -> return np.asarray(label[ -1, :height, :width])",
        ): "there is one entry",
        (
            "_jitted_crf.refine",
            "return dense_crf(image, probs, size=size, gaussian=kernel, **dict(settings)) -> return dense_crf(image, probs, size=size, **dict(settings))",
        ): "the CRF makes the same kernel anew",
        (
            "crf_labels.run",
            "return crf(image, probs, **SEED_CRF)[..., : cam.shape[-1] + 1].argmax(axis=-1) -> return crf(image, probs, **SEED_CRF)[..., : cam.shape[-1] + 2].argmax(axis=-1)",
        ): "a class that is absent never wins",
        (
            "pseudo_label_writer.write",
            "class_of = np.full(256, 255, np.uint8) -> class_of = np.full( 257, 255, np.uint8)",
        ): "a label is below 256",
    },
    "toco_jax/weights/backbone_files.py": {
        (
            "grid_of",
            "entries = positions.shape[1] - 1 if positions.ndim == 3 else -1 -> entries = positions.shape[1] - 1 if positions.ndim == 3 else - 0",
        ): "both are below 1, which is refused"
    },
    "toco_jax/weights/recognise.py": {
        (
            "pretraining",
            'only = "ImageNet-21k only" if head.shape[0] > 20_000 else "another set than ImageNet-1k" -> only = "ImageNet-21k only" if head.shape[0] > 20001 else "another set than ImageNet-1k"',
        ): "no set has 20,001 classes"
    },
    "toco_jax/weights/load.py": {
        (
            "_from_run",
            "run = runs.load(path, portable=True, report=silent) -> run = runs.load(path, report=silent)",
        ): "says how the run's network computes, of which only the parameters are taken"
    },
    "toco_jax/weights/origin.py": {
        (
            "",
            "if TYPE_CHECKING:  # orbax is slow to import, and only runs need it -> if not TYPE_CHECKING:  # orbax is slow to import, and only runs need it",
        ): "imports a name for annotations"
    },
    "toco_jax/inference/segmenter.py": {
        (
            "Segmenter.__init__",
            "batch_size=batch_size or default_batch_size(), -> ",
        ): "on a CPU the network's own default is the same, one image per device",
        (
            "best_label",
            "plane = resize_map(np.ascontiguousarray(scores[..., k : k + 1]), size)[..., 0] -> plane = resize_map(np.ascontiguousarray(scores[..., k : k + 1]), size)[..., -1]",
        ): "there is one entry",
    },
    "toco_jax/config/auto.py": {
        (
            "",
            "_LARGE_BLOCK = 4 * 2**20 -> _LARGE_BLOCK = 3 * 2**20",
        ): "between the two measured sizes; how a block is run changes no result",
    },
    "toco_jax/method/par.py": {
        (
            "affinity",
            "lowest = jnp.full_like(pixel[:, 0], -jnp.inf) -> lowest = jnp.full_like(pixel[:, 1], -jnp.inf)",
        ): "only its shape is used",
        (
            "affinity",
            "closeness = -((distance / (distance.std(ddof=1) + _EPS) / _BANDWIDTH) ** 2) -> closeness = -((distance / (distance.std(ddof=1) - _EPS) / _BANDWIDTH) ** 2)",
        ): "1e-8 beside a deviation of some pixels is below float32's rounding",
        (
            "refine_pseudo_label",
            "unrolled: bool = False, -> unrolled: bool = True,",
        ): "how the filter is compiled changes no number",
        (
            "affinity",
            "position = np.exp(closeness - closeness.max()) -> position = np.exp(closeness + closeness.max())",
        ): "a factor that the division by the sum takes out again",
        (
            "refine_pseudo_label.class_probs",
            "return jax.nn.softmax(jnp.concatenate([background, logits], axis=-1), axis=-1) -> return jax.nn.softmax(jnp.concatenate([background, logits], axis=-1),)",
        ): "the last axis is JAX's default",
    },
    "toco_jax/method/losses.py": {
        (
            "_negative_log_likelihood",
            "log_probs = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1) -> log_probs = jax.nn.log_softmax(logits.astype(jnp.float32),)",
        ): "the last axis is JAX's default",
        (
            "dense_energy",
            "probs = resize(jax.nn.softmax(seg_logits.astype(jnp.float32), axis=-1), size) -> probs = resize(jax.nn.softmax(seg_logits.astype(jnp.float32),), size)",
        ): "the last axis is JAX's default",
        (
            "dense_energy",
            "gate = jnp.maximum(jnp.where(label == IGNORE_INDEX, 1.0, gate), 0.0)[..., None] -> gate = jnp.maximum(jnp.where(label == IGNORE_INDEX, 1.0, gate), -1.0)[..., None]",
        ): "negative only outside of the box, where it meets probabilities of 0",
        (
            "segmentation",
            "is_target = jax.nn.one_hot(target, log_probs.shape[-1], dtype=bool) -> is_target = jax.nn.one_hot(target, log_probs.shape[-1],)",
        ): "a condition of 0 and 1 chooses as one of booleans does",
        (
            "patch_token_contrast",
            "unit = jnp.where(is_zero, tokens / 1e-8, tokens / norm) -> unit = jnp.where(is_zero, tokens * 1e-8, tokens / norm)",
        ): "a zero token stays zero, and the sign of its cosine, 0, takes the gradient away",
    },
    "toco_jax/weights/layouts.py": {
        (
            "own",
            "zero = np.broadcast_to(np.float32(0), source.shape) -> zero = np.broadcast_to(np.float32( -1), source.shape)",
        ): "only its shape is looked at"
    },
    "toco_jax/evaluation/squashed.py": {
        (
            "make_eval_step",
            "in_shardings=(replicated(mesh), batch_sharded(mesh)), -> ",
        ): "both arguments are placed before the call, by `device_put` and `shard_batch`",
        (
            "_predict_one",
            'labels[name] = cam_to_label(cam[None], record["cls_label"][None], bkg_thre=bkg_thre)[0] -> labels[name] = cam_to_label(cam[None], record["cls_label"][None], bkg_thre=bkg_thre)[ -1]',
        ): "there is one entry",
    },
    "toco_jax/training/step.py": {
        (
            "make_train_step",
            "out_shardings=(placement, copies), -> ",
        ): "the constraint on the state says the same, and the terms are copies already"
    },
    "toco_jax/evaluation/metrics.py": {
        (
            "multilabel_f1",
            "return np.where(total > 0, 2 * hits / np.maximum(total, 1), 0.0) -> return np.where(total >= 0, 2 * hits / np.maximum(total, 1), 0.0)",
        ): "where the total is 0 so are the hits, and 0 / 1 is 0"
    },
    "toco_jax/evaluation/scoring.py": {
        (
            "sweep_counts",
            'exceeded = np.searchsorted(np.array(THRESHOLDS, np.float32), value[counted], side="left") -> exceeded = np.searchsorted(np.array(THRESHOLDS, np.float32), value[counted],)',
        ): "left is numpy's default"
    },
    "toco_jax/training/optim.py": {
        (
            "poly_warmup_factor",
            "progress = step.astype(jnp.float32) / max(warmup_steps, 1) -> progress = step.astype(jnp.float32) / max(warmup_steps, 0)",
        ): "without warm-up the other branch is taken at every step"
    },
    "toco_jax/method/crops.py": {
        (
            "sample_crop_origins",
            "if min(height, width) < 1 or height * width < num: -> if min(height, width) < 0 or height * width < num:",
        ): "a side of 0 leaves 0 positions, which is below any number of crops",
        (
            "sample_crop_origins",
            "priority = jnp.where(candidate | ~enough, priority, -1.0) -> priority = jnp.where(candidate | ~enough, priority, - 0.0)",
        ): "differs where a candidate's draw is 0 exactly, which is one in 8 million",
    },
    "toco_jax/method/cams.py": {
        (
            "multi_scale_cams",
            "size = images.shape[1:3] -> size = images.shape[1: 4]",
        ): "a resize reads the first two entries alone, and one to the same size changes nothing",
        (
            "multi_scale_cams",
            "totals: list = [0.0, 0.0] -> totals: list = [0.0, -1.0]",
        ): "the smallest value is subtracted afterwards",
        (
            "to_class_labels",
            "label_of = jnp.pad(class_ids + 1, ((0, 0), (1, 0))).astype(jnp.int32)  # [B, 1 + K] -> label_of = jnp.pad(class_ids + 1, ((0, 0), (1, 1))).astype(jnp.int32)  # [B, 1 + K]",
        ): "no label counts further than the classes",
        (
            "to_class_labels",
            "named = jnp.take_along_axis(label_of, jnp.where(flat == IGNORE_INDEX, 0, flat), axis=1) -> named = jnp.take_along_axis(label_of, jnp.where(flat == IGNORE_INDEX, 0, flat),)",
        ): "the last axis is JAX's default",
    },
    "toco_jax/data/pipeline.py": {
        (
            "_iterate",
            "options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=buffered) -> options = grain.ReadOptions(num_threads=num_threads,)",
        ): "how much is read ahead changes no batch",
        (
            "_iterate",
            "buffered = max(2 * share, num_threads) if num_threads else 0 -> buffered = max( 3 * share, num_threads) if num_threads else 0",
        ): "how much is read ahead changes no batch",
    },
}
