# The Astromesh node: one image for every role. Packages and code are prepared in stages of their own; the last stage only copies.
ARG BASE_IMAGE=python:3.13-slim

FROM ${BASE_IMAGE} AS packages
# strip halves what the packages weigh: most wheels carry the debug symbols of their compiled parts. Bases without apt go without it.
RUN command -v strip || ! command -v apt-get || { apt-get update -qq && apt-get install -y -qq --no-install-recommends binutils; }
# Where the package index is, when it is not pip's default one. These stay in this stage: the final image does not carry them.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_TRUSTED_HOST
# requirements-all.lock adds the export of traces.
ARG LOCK=requirements.lock
COPY ${LOCK} /requirements.lock
# The venv has no pip of its own. NumPy, as large as all the rest, searches vectors only where SQLite cannot load vec0. Bytecode is unchecked: nothing changes below /opt/venv, and layers do not keep mtimes to check by.
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv --without-pip /opt/venv \
    && pip --python /opt/venv/bin/python install --require-hashes --only-binary :all: --no-compile -r /requirements.lock \
    && cd /opt/venv/lib/python3*/site-packages \
    && if /opt/venv/bin/python -c "import sqlite3; c = sqlite3.connect(':memory:'); c.enable_load_extension(True); c.load_extension('./sqlite_vec/vec0')"; \
        then rm -r numpy numpy-*.dist-info numpy.libs; fi \
    && find /opt/venv/lib \( -name '*.pyx' -o -name '*.pyi' -o -name '*.pxd' -o -name '*.[ch]' -o -name '*.hash' \) -delete \
    && find /opt/venv/lib -depth -type d -name tests -exec rm -rf {} + \
    && rm -f /opt/venv/bin/[Aa]ctivate* \
    && { ! command -v strip || find /opt/venv/lib -name '*.so*' -exec strip --strip-debug {} +; } \
    && /opt/venv/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/venv/lib

FROM packages AS code
COPY app /image/app/app
COPY config /image/app/config
COPY entrypoint.sh /image/app/
# /data belongs to group 0, which every user of this image is in, so any UID can write there. The checkout's own modes do not matter.
RUN python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash -s /image /image/app/app \
    && chmod -R a+rX,go-w /image/app \
    && chmod 0755 /image/app/entrypoint.sh /image/app/app/cli/astromeshctl \
    && mkdir -p /image/opt/venv/bin && ln -s /app/app/cli/astromeshctl /image/opt/venv/bin/astromeshctl \
    && mkdir -m 0770 /image/data

FROM ${BASE_IMAGE}
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="Astromesh node" \
      org.opencontainers.image.description="Every node of an AI-agent platform: gateway, worker, inference, or all of them" \
      org.opencontainers.image.version="${VERSION}"
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
COPY --from=packages /opt/venv /opt/venv
COPY --from=code /image/ /
WORKDIR /app
VOLUME /data
EXPOSE 8000
USER 10001:0
# SIGTERM begins the drain. It is Docker's default too, but some base images set another signal, which would cut requests off.
STOPSIGNAL SIGTERM
# Without site and without the app: a probe costs some ten milliseconds, and finds the port that the node really listens on.
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s --retries=3 \
    CMD ["/opt/venv/bin/python", "-I", "-S", "/app/app/healthcheck.py"]
ENTRYPOINT ["/app/entrypoint.sh"]
