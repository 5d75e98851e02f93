"""Counts the products of a traced program, loops included.

XLA's own count takes the body of a loop once, however often it runs; here it counts as often.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core
from jax.interpreters import partial_eval


def product_flops(traced: jax.stages.Traced) -> int:
    """FLOPs of the matrix products and convolutions of one device's program.

    What no result needs is left out; of the branches of a condition the largest counts, and a loop
    whose number of rounds depends on the data counts once. Inside `shard_map` sizes are those of
    one device, and so is the count. Of cuDNN's attention count the two products of the forward pass
    and the four of the gradient, not what it computes again.
    """
    jaxpr = traced.jaxpr.jaxpr
    needed, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return _of_jaxpr(needed)


def _of_jaxpr(jaxpr: core.Jaxpr) -> int:
    return sum(_OF_PRIMITIVE.get(eqn.primitive.name, _of_inner)(eqn) for eqn in jaxpr.eqns)


def _inner(eqn: core.JaxprEqn) -> list[core.Jaxpr]:
    return [getattr(inner, "jaxpr", inner) for inner in core.jaxprs_in_params(eqn.params)]


def _of_inner(eqn: core.JaxprEqn) -> int:
    return sum(_of_jaxpr(inner) for inner in _inner(eqn))


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape


def _of_dot(eqn: core.JaxprEqn) -> int:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    sides = _shape(eqn.invars[0])
    return 2 * math.prod(_shape(eqn.outvars[0])) * math.prod(sides[i] for i in contracted)


def _of_convolution(eqn: core.JaxprEqn) -> int:
    kernel = _shape(eqn.invars[1])
    outputs = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
    return 2 * math.prod(_shape(eqn.outvars[0])) * math.prod(kernel) // outputs


def _of_cudnn_attention(eqn: core.JaxprEqn, num_products: int) -> int:
    batch, queries, heads, width = _shape(eqn.invars[0])
    return 2 * num_products * batch * heads * queries * _shape(eqn.invars[1])[1] * width


def _of_scan(eqn: core.JaxprEqn) -> int:
    return eqn.params["length"] * _of_inner(eqn)


def _of_condition(eqn: core.JaxprEqn) -> int:
    return max(_of_jaxpr(branch) for branch in _inner(eqn))


_OF_PRIMITIVE: dict[str, Callable[[Any], int]] = {
    "dot_general": _of_dot,
    "conv_general_dilated": _of_convolution,
    "scan": _of_scan,
    "cond": _of_condition,
    "dot_product_attention_fwd_wrapper": functools.partial(_of_cudnn_attention, num_products=2),
    "dot_product_attention_bwd_wrapper": functools.partial(_of_cudnn_attention, num_products=4),
}
