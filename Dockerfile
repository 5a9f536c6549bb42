# The service in one image: `docker build --tag webapp .`
# It needs a DATABASE_URL to run, and holds no secret.

ARG PYTHON=3.13-slim-bookworm


FROM python:${PYTHON} AS builder

# Ready-made wheels only, each checked against its hash: no compiler is needed. The base image's
# pip fills the environment, so that the environment itself carries none. The packages' own tests
# would be a tenth of the image.
# `--build-arg TRACES=1` adds what the setting OTEL needs, `--build-arg BOOSTING=1` what models of
# XGBoost, LightGBM and ONNX do, `--build-arg DASK=1` what trainings on a cluster do, and
# `--build-arg OBJECTS=1` what a DATA_ROOT at s3:// or gs:// does.
ARG TRACES=
ARG BOOSTING=
ARG DASK=
ARG OBJECTS=
COPY requirements.txt requirements/traces.txt requirements/boosting.txt requirements/dask.txt \
    requirements/objects.txt /tmp/
# Bytecode is made here, because the running service may write nothing; unchecked, so that it
# stays valid whatever happens to the files' dates.
RUN python -m venv --without-pip /opt/venv \
    && python -m pip --python /opt/venv/bin/python install --no-cache-dir --no-compile \
        --only-binary :all: --require-hashes --requirement /tmp/requirements.txt \
        ${TRACES:+--requirement /tmp/traces.txt} \
        ${BOOSTING:+--requirement /tmp/boosting.txt} \
        ${OBJECTS:+--requirement /tmp/objects.txt} \
        ${DASK:+--requirement /tmp/dask.txt} \
    && find /opt/venv -type d -name tests -prune -exec rm -rf {} + \
    && python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/venv

# From here on all layers are small: a change of the code leaves the packages' layer as it is.
WORKDIR /app
COPY config.py wsgi.py gunicorn.conf.py ./
COPY migrations migrations
COPY webapp webapp
# The modes may come from a strict umask.
RUN chmod -R u=rwX,go=rX . \
    && python -m compileall -q -j 0 --invalidation-mode unchecked-hash /app


FROM python:${PYTHON}

LABEL org.opencontainers.image.title="webapp" \
      org.opencontainers.image.description="A self-hosted machine-learning service"

# The base image ships no bytecode of the standard library: each start and each health check
# would compile what it imports. The user has a fixed number, so that volumes keep their
# owner and an orchestrator sees that it is not root.
RUN python -m compileall -q -j 0 --invalidation-mode unchecked-hash /usr/local/lib/python3.* \
    && groupadd --gid 10001 app \
    && useradd --uid 10001 --gid app --no-create-home --home-dir /nonexistent \
        --shell /usr/sbin/nologin app \
    && install --directory --owner app --group app /app/instance

# The code belongs to root; `instance` is the app's, for a volume that holds a SQLite file.
COPY --from=builder /opt/venv /opt/venv
WORKDIR /app
COPY --from=builder /app .

# matplotlib writes what it knows of fonts into its folder: the user has no home.
ENV PATH=/opt/venv/bin:$PATH \
    MPLCONFIGDIR=/tmp/matplotlib \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    APP_ENV=production \
    BIND=0.0.0.0:8000

USER 10001:10001
EXPOSE 8000

# How to probe it is for whoever runs it to say (images in the OCI format cannot):
# docker-compose.yml and deploy/kubernetes do.
CMD ["gunicorn"]
