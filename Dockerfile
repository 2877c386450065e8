# One image per service: the kernel, that service, and nothing else (payment and shipping: the simulator too).
#
#   docker build --build-arg SERVICE=payment -t orderflow/payment .      order inventory payment shipping orchestrator
#   docker build --build-arg SERVICE=cli -t orderflow/cli .              the command line
#
# Plain syntax: the classic builder and BuildKit both take it, for amd64 and arm64 alike (every locked package has
# wheels for both). The layers of the interpreter, the packages and the kernel are the same in every image, so they
# exist once; a change of a service's code makes one small layer anew.

ARG PYTHON_IMAGE=python:3.12-slim-bookworm

FROM ${PYTHON_IMAGE} AS packages
COPY requirements/runtime.txt /tmp/runtime.txt
RUN python -m venv --without-pip /opt/orderflow \
 && pip --python /opt/orderflow/bin/python install --quiet --no-cache-dir --no-compile --only-binary :all: \
        --require-hashes -r /tmp/runtime.txt \
 && find /opt/orderflow -type d \( -name tests -o -name test \) -prune -exec rm -rf {} + \
 && python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/orderflow/lib

# Compiled ahead: the root file system is read-only, so a container would compile everything at each of its starts.
FROM ${PYTHON_IMAGE} AS base
RUN useradd --system --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin orderflow \
 && python -m compileall -q -j 0 --invalidation-mode unchecked-hash \
        -x '/(test|tests|idlelib|tkinter|turtledemo|lib2to3|ensurepip|pydoc_data|site-packages)/' /usr/local/lib/python3.12
COPY --from=packages /opt/orderflow /opt/orderflow
ENV PATH=/opt/orderflow/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

FROM base AS sources
WORKDIR /source
COPY orderflow orderflow
RUN python -m compileall -q --invalidation-mode unchecked-hash .

FROM base AS selected
ARG SERVICE
COPY requirements/runtime.txt requirements/cli.txt deploy/containers/select.sh /tmp/
COPY . /source
RUN sh /tmp/select.sh "$SERVICE"

FROM base AS image
WORKDIR /app
USER 10001:10001
ENTRYPOINT ["python", "/app/start.py"]
HEALTHCHECK --interval=5s --timeout=4s --start-period=30s --retries=3 CMD ["python", "-I", "-S", "/app/healthcheck.py"]
COPY --from=sources /source /app
ARG SERVICE
ENV ORDERFLOW_SERVICE=$SERVICE
COPY --from=selected /selected /
