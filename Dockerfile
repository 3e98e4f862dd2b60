# S4M with the tested versions of all packages, for the CPU and for NVIDIA GPUs: the wheels of torch bring CUDA
# along, so one image serves both. Not built so far: written and read twice on a machine without a builder.
#
#   docker build -t s4m .
#   docker run --rm -it --user "$(id -u):$(id -g)" -v "$PWD:/data" s4m demo
#   docker run --rm -it --gpus all --shm-size 8g --user "$(id -u):$(id -g)" -v "$PWD:/data" s4m run experiments/mine.py
#
# --gpus needs the NVIDIA Container Toolkit and a driver for CUDA 13. --shm-size: loader processes hand batches
# over in shared memory, of which a container has 64 MB otherwise. Downloaded weights are kept in /data/weights-cache.
# The image contains NVIDIA's CUDA libraries: their license, and those named in NOTICE, apply to who publishes it.

FROM python:3.11-slim AS build
RUN python -m venv /opt/s4m
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /source
# The packages first: their layer is used again while only this project changes.
COPY constraints.txt .
RUN /opt/s4m/bin/pip install --no-deps -r constraints.txt
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY cache cache
COPY stages stages
COPY s4m_pipeline s4m_pipeline
COPY configs configs
RUN /opt/s4m/bin/pip install --no-deps --no-build-isolation .

FROM python:3.11-slim
# libgl1 and libglib2.0-0: opencv-python, which is linked against them, although nothing is displayed.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/s4m /opt/s4m
# HOME: a user without an entry in /etc/passwd has none that can be written.
ENV PATH=/opt/s4m/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    MPLCONFIGDIR=/tmp/matplotlib \
    TORCH_HOME=/data/weights-cache/torch \
    HF_HOME=/data/weights-cache/huggingface
WORKDIR /data
ENTRYPOINT ["s4m"]
CMD ["--help"]
