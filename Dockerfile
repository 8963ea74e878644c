# One image, three commands: `python -m migrations`, `python -m worker`, `python -m api` (the default).

# Python 3.13.15. The digest, not the tag, decides what is built on. For a mirror, or to renew it:
#   docker buildx imagetools inspect python:3.13-slim-bookworm
#   docker build --build-arg PYTHON_IMAGE=...
ARG PYTHON_IMAGE=python:3.13-slim-bookworm@sha256:ed86c82274b3c69b52fb5820f358f0bd7df0b603332063cb5c6e32bd220c3e6e

FROM ${PYTHON_IMAGE} AS build
WORKDIR /build
RUN python -m venv --without-pip /opt/venv
# For COMPUTE_BACKEND=openstack: docker build --build-arg REQUIREMENTS=requirements-openstack.txt ...
ARG REQUIREMENTS=requirements.txt
COPY ${REQUIREMENTS} ./
RUN pip --python /opt/venv/bin/python install --no-cache-dir --require-hashes --only-binary :all: -r ${REQUIREMENTS}

FROM ${PYTHON_IMAGE}
# An intruder finds no installer: neither pip nor the copy of it that Python brings along.
RUN pip uninstall --yes --root-user-action ignore pip && rm -r /usr/local/lib/python3.13/ensurepip && \
    useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin vmapi
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 API_HOST=0.0.0.0 API_PORT=8000
WORKDIR /app
COPY worker.py ./
COPY domain domain
COPY activities activities
COPY workflows workflows
COPY migrations migrations
COPY api api
# The user cannot write here. Without compileall, every start would compile all modules anew. The files keep the modes of
# the checkout, and under a strict umask the user could not read them.
RUN python -m compileall -q . && chmod -R a+rX .
USER 10001
EXPOSE 8000
# A proxy of the environment cannot reach this address.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-c", \
    "import os, urllib.request as r; r.build_opener(r.ProxyHandler({})).open(f'http://127.0.0.1:{os.environ[\"API_PORT\"]}/api/v1/health/live', timeout=4)"]
CMD ["python", "-m", "api"]
