"""The verbs of `toco`, one module each.

A verb is a line of `VERBS` and a module of its name with a docstring (the head of its help),
`add_arguments(parser)`, `run(options)`, and `SET_UP`, functions that prepare the process. With
`PARTS`, a line about each of its own commands, `add_arguments` is given the name of one, too, and
`options.part` holds it. Modules import what does the work inside `run`, so that `--help` is quick.
"""

VERBS = {
    "train": "train a network on images with image-level labels",
    "ablate": "train variants of a configuration with several seeds and compare them",
    "evaluate": "score a run on a split, or write pseudo labels or a submission",
    "predict": "segment photos, folders and videos with a run",
    "report": "write a page that shows a run, or compares several",
    "analyze": "draw the poster's figures of a run: similarity, attention, layers, one step",
    "convert": "turn a PyTorch checkpoint into a run, or a run into a PyTorch file",
    "push": "share a run on the Hugging Face hub",
    "export": "write a run as one file for JAX, ONNX Runtime or X-AnyLabeling",
    "check": "read a data set once and list what is wrong with it",
    "show": "draw the views, boxes and crops that training will see",
    "prepare": "build masks, labels or records of VOC, COCO or a folder",
    "benchmark": "measure the training step and its parts",
    "config": 'print every key of a configuration, with "auto" resolved',
    "pretrain": "train the small encoder that the configuration shapes starts from",
}
