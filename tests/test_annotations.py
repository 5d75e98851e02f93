"""The annotated shapes and dtypes of `method` and `ops` hold while tests run; see `conftest`."""

import jax
import jax.numpy as jnp
import pytest
from jaxtyping import TypeCheckError

from toco_jax.method import cams
from toco_jax.ops.resize import resize

CAM, CLASS_IDS = jnp.zeros((2, 4, 4, 5)), jnp.zeros((2, 3), jnp.int32)


@pytest.mark.parametrize("transform", [lambda function: function, jax.jit])
def test_a_wrong_shape_is_refused(transform):
    of_classes = transform(cams.of_classes)
    assert of_classes(CAM, CLASS_IDS).shape == (2, 4, 4, 3)
    with pytest.raises(TypeCheckError, match="class_ids"):
        of_classes(CAM, CLASS_IDS[:1])


def test_a_wrong_dtype_is_refused():
    with pytest.raises(TypeCheckError, match="class_ids"):
        cams.of_classes(CAM, CLASS_IDS.astype(jnp.float32))


def test_a_wrong_type_is_refused():
    with pytest.raises(TypeCheckError, match="size"):
        resize(CAM, 2)
