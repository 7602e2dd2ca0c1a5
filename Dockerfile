# One image for every process of ATDM: code server, webserver, daemon, metrics and the one-off init.
# docker-compose.yml and deploy/kubernetes give the command of each process.

FROM python:3.12.11-slim-bookworm AS build
WORKDIR /src
COPY requirements.lock ./locks/
RUN python -m venv /opt/atdm \
    && awk '/^[a-z]/ {keep = /^uv==/} keep' locks/requirements.lock > locks/uv.lock \
    && python -m pip install --no-cache-dir --require-hashes --no-deps -r locks/uv.lock
COPY deploy/requirements.lock ./locks/image.lock
RUN uv pip sync --no-cache --python /opt/atdm/bin/python --require-hashes --compile-bytecode locks/image.lock
COPY . .
RUN uv build --wheel --out-dir dist \
    && uv pip install --no-cache --no-deps --compile-bytecode --python /opt/atdm/bin/python dist/*.whl

FROM python:3.12.11-slim-bookworm
RUN useradd --uid 10001 --user-group --home-dir /var/lib/atdm --create-home atdm \
    && install -d -o atdm -g atdm /var/lib/atdm/dagster /etc/atdm
COPY --from=build /opt/atdm /opt/atdm
COPY --chown=atdm:atdm dagster.yaml /var/lib/atdm/dagster/dagster.yaml
COPY deploy/compose/workspace.yaml /etc/atdm/workspace.yaml
ENV PATH=/opt/atdm/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    ATDM_HOME=/var/lib/atdm \
    DAGSTER_HOME=/var/lib/atdm/dagster \
    DAGSTER_DISABLE_TELEMETRY=1
USER 10001:10001
WORKDIR /var/lib/atdm
EXPOSE 3000 4000 9464
HEALTHCHECK NONE
CMD ["atdm", "--help"]
