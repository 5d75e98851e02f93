"""Label maps that are scored, by the short names of results, and what tables call them."""

# Short name of each map of a network in scores: its name in tables.
MAPS = {"seg": "segmentation", "cam": "CAM", "aux_cam": "aux CAM"}
# The same of the label maps that `evaluation.baselines` makes.
BASELINES = {
    "background": "background alone",
    "seg_of_tags": "segmentation, classes given",
    "token_truth": "truth at token resolution",
}
