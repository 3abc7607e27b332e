# One image for the five services: `docker run IMAGE svc_storage`.
#
# Not built on the machine where it was written, which has no container runtime. What its steps do is run there by other means
# (tests/infra/static/test_image.py): the lines below that make and install the wheel, in a bare virtual environment, and each service under
# the same user with a read-only root.
#
# A release names its base by digest: --build-arg PYTHON=python@sha256:…
ARG PYTHON=python:3.13-slim-bookworm

FROM ${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
RUN python -m venv /opt/millrace
COPY requirements/ requirements/
RUN /opt/millrace/bin/python -m pip install --no-compile --no-deps --require-hashes --only-binary :all: -r requirements/server.txt
COPY pyproject.toml README.md LICENSE ./
COPY millrace/ millrace/
COPY svc_extract/ svc_extract/
COPY svc_storage/ svc_storage/
COPY svc_transform/ svc_transform/
COPY svc_analysis/ svc_analysis/
COPY svc_viz/ svc_viz/
RUN /opt/millrace/bin/python -m pip wheel --no-build-isolation --no-deps --no-index --wheel-dir /dist .
RUN /opt/millrace/bin/python -m pip install --no-compile --no-deps --no-index /dist/*.whl
# Compiled here, because nothing can be written where it runs.
RUN /opt/millrace/bin/python -m compileall -q /opt/millrace/lib

FROM ${PYTHON}
RUN groupadd --gid 10001 millrace && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/millrace millrace \
 && install --directory --owner 10001 --group 10001 /var/lib/millrace
COPY --from=build /opt/millrace /opt/millrace
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/var/lib/millrace MILLRACE_HOME=/var/lib/millrace
USER 10001:10001
WORKDIR /var/lib/millrace
EXPOSE 7400 7401 7402 7403 7404 7405
STOPSIGNAL SIGTERM
ENTRYPOINT ["/opt/millrace/bin/python", "-m"]
