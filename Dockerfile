# One image, three commands: `python -m migrations`, `python -m worker`, `python -m api` (the default).

FROM python:3.13-slim-bookworm AS build
WORKDIR /build
RUN python -m venv /opt/venv
COPY requirements.txt ./
RUN /opt/venv/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r requirements.txt

FROM python:3.13-slim-bookworm
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin vmapi
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 API_HOST=0.0.0.0 API_PORT=8000
WORKDIR /app
COPY worker.py ./
COPY domain domain
COPY activities activities
COPY workflows workflows
COPY migrations migrations
COPY api api
# The user cannot write here. Without this, every start would compile all modules anew.
RUN python -m compileall -q .
USER 10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 CMD ["python", "-c", \
    "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"API_PORT\"]}/api/v1/health/live', timeout=4)"]
CMD ["python", "-m", "api"]
