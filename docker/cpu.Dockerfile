# flowprep on processors. From the folder above this one:
#   docker build --file docker/cpu.Dockerfile --tag flowprep .
#   docker run --rm --volume "$PWD/videos:/data/videos:ro" --volume "$PWD/out:/data/out" --user "$(id -u):$(id -g)" \
#       flowprep extract /data/videos /data/out/flow.zarr
# With "--build-arg EXTRA=cuda" it computes on NVIDIA GPUs, too: docs/gpu.md.
FROM python:3.13-slim-bookworm AS build
WORKDIR /source
COPY constraints.txt pyproject.toml setup.cfg README.md LICENSE ./
COPY flowprep flowprep
RUN python -m venv /opt/flowprep
ARG EXTRA=""
# The versions that flowprep is tested with.
RUN /opt/flowprep/bin/pip install --no-cache-dir --constraint constraints.txt setuptools \
    && /opt/flowprep/bin/pip install --no-cache-dir --constraint constraints.txt --no-build-isolation ".${EXTRA:+[$EXTRA]}"
# The same OpenCV without windows, which needs no libraries of a desktop.
RUN version=$(sed -n 's/^opencv-contrib-python==//p' constraints.txt) \
    && /opt/flowprep/bin/pip uninstall --yes opencv-contrib-python \
    && /opt/flowprep/bin/pip install --no-cache-dir --no-deps "opencv-contrib-python-headless==$version"

FROM python:3.13-slim-bookworm
# Process 1 hands signals on and clears up after orphans. Debian's stable release keeps one version of it.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/flowprep /opt/flowprep
COPY docker/entrypoint /usr/local/bin/entrypoint
# Kernels are compiled for the processor at hand, and kept where any user can write.
ENV PATH=/opt/flowprep/bin:$PATH \
    FLOWPREP_CACHE=/tmp/flowprep
HEALTHCHECK NONE
USER 1000:1000
WORKDIR /data
ENTRYPOINT ["tini", "--", "entrypoint"]
CMD ["--help"]
