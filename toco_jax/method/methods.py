"""The methods that `config.method` chooses from, each a module of plain functions."""

from toco_jax.method import afa, toco, toco_plus

# A method has these functions, which `toco` describes:
#
#     init_extra(config, params) -> extra
#     moved_extra(config, state) -> extra
#     make_loss_fn(config, model, phase, *, num_present) -> loss_fn
#
# `config.methods` has the loss terms that it computes and the values that it sets.
METHODS = {"afa": afa, "toco": toco, "toco_plus": toco_plus}
