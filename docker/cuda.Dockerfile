# flowprep on NVIDIA GPUs: its own kernels, and OpenCV's, which no package has: it is built here from its sources, in
# an hour or more. From the folder above this one, for the GPUs at hand alone, which is about three times as fast
# (nvidia-smi --query-gpu=compute_cap --format=csv,noheader names their type):
#   docker build --file docker/cuda.Dockerfile --tag flowprep-cuda \
#       --build-arg CUDA_ARCH_BIN=9.0 --build-arg CUDA_ARCH_PTX= .
#   docker run --rm --gpus all --volume "$PWD/videos:/data/videos:ro" --volume "$PWD/out:/data/out" \
#       --user "$(id -u):$(id -g)" flowprep-cuda extract /data/videos /data/out/flow.zarr --backend auto
# The driver of the machine must be 580 or newer, its GPUs of compute capability 7.5 or more. This file has never been
# built: docs/opencv-cuda.md says what of it was.
FROM nvidia/cuda:13.0.2-devel-ubuntu24.04 AS build
# Ubuntu's release keeps one version of each.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends build-essential cmake ninja-build python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/flowprep
# The version of constraints.txt; a number of its own, so that nothing else that changes there builds OpenCV anew.
ARG OPENCV_VERSION=5.0.0.93
# Types of GPUs by compute capability: those that get machine code, and one for later types to compile from; "" = none.
ARG CUDA_ARCH_BIN="7.5;8.0;8.6;8.9;9.0;10.0;12.0"
ARG CUDA_ARCH_PTX="12.0"
# The modules that flowprep calls and what these need; of CUDA what TV-L1 and Brox need, which is neither cuBLAS nor
# cuFFT; everything else of the system's own left out. calib: without it the type stubs fail, and with them the build.
ARG OPENCV_MODULES=core,imgproc,imgcodecs,video,optflow,calib,cudev,cudaarithm,cudafilters,cudaimgproc,cudawarping,cudalegacy,cudaoptflow,python3
RUN CMAKE_BUILD_PARALLEL_LEVEL="$(nproc)" \
    CMAKE_ARGS="-DBUILD_LIST=$OPENCV_MODULES \
        -DWITH_CUDA=ON -DCUDA_ARCH_BIN=$CUDA_ARCH_BIN -DCUDA_ARCH_PTX=$CUDA_ARCH_PTX \
        -DWITH_CUBLAS=OFF -DWITH_CUFFT=OFF -DWITH_CUDNN=OFF -DWITH_NVCUVID=OFF -DWITH_NVCUVENC=OFF \
        -DWITH_OPENCL=OFF -DWITH_FFMPEG=OFF -DWITH_GSTREAMER=OFF -DWITH_GTK=OFF -DWITH_OPENEXR=OFF \
        -DBUILD_ZLIB=ON -DBUILD_JPEG=ON -DBUILD_PNG=ON" \
    /opt/flowprep/bin/pip wheel --no-cache-dir --no-deps --no-binary opencv-contrib-python --wheel-dir /wheels \
        "opencv-contrib-python==$OPENCV_VERSION"
WORKDIR /source
COPY constraints.txt pyproject.toml setup.cfg README.md LICENSE ./
# It is for the stable interface of Python, and says so only now: it can be taken out of here to any later Python.
RUN /opt/flowprep/bin/pip install --no-cache-dir --constraint constraints.txt setuptools wheel==0.48.0 \
    && /opt/flowprep/bin/python -m wheel tags --python-tag cp37 --abi-tag abi3 --remove /wheels/*.whl
COPY flowprep flowprep
# The versions that flowprep is tested with, and in place of OpenCV's package the one built above.
RUN /opt/flowprep/bin/pip install --no-cache-dir --constraint constraints.txt --no-build-isolation ".[cuda]" \
    && /opt/flowprep/bin/pip uninstall --yes opencv-contrib-python \
    && /opt/flowprep/bin/pip install --no-cache-dir --no-deps /wheels/*.whl
# Here there is no GPU: only what it was built with can be seen, and that there is what compiles flowprep's own kernels.
RUN /opt/flowprep/bin/python -c \
        "import cv2; cv2.cuda.OpticalFlowDual_TVL1_create, cv2.cuda.BroxOpticalFlow_create" \
    && /opt/flowprep/bin/python -c "import sys; from flowprep.flow.cuda import driver; sys.exit(driver.uncompilable())"

FROM nvidia/cuda:13.0.2-runtime-ubuntu24.04
# Process 1 hands signals on and clears up after orphans. Ubuntu's release keeps one version of each.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 tini \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/flowprep /opt/flowprep
COPY docker/entrypoint /usr/local/bin/entrypoint
# Kernels are compiled for the processor and the GPU at hand, and kept where any user can write. What of the driver the
# container gets: CUDA and nvidia-smi.
ENV PATH=/opt/flowprep/bin:$PATH \
    FLOWPREP_CACHE=/tmp/flowprep \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
HEALTHCHECK NONE
USER 1000:1000
WORKDIR /data
ENTRYPOINT ["tini", "--", "entrypoint"]
CMD ["--help"]
