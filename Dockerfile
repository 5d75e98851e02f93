# `toco` in a container, installed from the wheel.
#
#     docker build -t toco_jax .
#     docker build -t toco_jax:cuda --build-arg EXTRA=cuda12 .     for NVIDIA GPUs; the host needs the driver
#     docker build --target smoke .                                also trains the demo, in some minutes
#
#     docker run --rm -u "$(id -u)" -v "$PWD:/work" toco_jax check folder data.root=photos
#     docker run --rm -u "$(id -u)" -v "$PWD:/work" --gpus all toco_jax:cuda train folder data.root=photos
#
# `EXTRA` is one of the extras of pyproject.toml, `ALSO` names further packages, such as jax[k8s] for
# launch/jobset.yaml.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS wheel
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheel .

FROM python:${PYTHON}-slim AS toco
ARG EXTRA=""
ARG ALSO=""
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    pip install --no-cache-dir "$(echo /wheel/*.whl)${EXTRA:+[$EXTRA]}" ${ALSO}
# Downloaded weights and compiled programs; any user may write there.
RUN mkdir -m 1777 /cache
ENV TOCO_CACHE=/cache/toco HF_HOME=/cache/huggingface HOME=/cache
WORKDIR /work
ENTRYPOINT ["toco"]
CMD ["--help"]

FROM toco AS smoke
RUN toco train shapes --out /tmp/shapes && toco evaluate /tmp/shapes

FROM toco
