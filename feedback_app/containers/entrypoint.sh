#!/bin/sh
# What a container of the product runs, by one word; anything else is run as a command.
set -eu
celery_worker() {
    exec celery -A feedback_app worker --without-gossip --without-mingle --loglevel "${LOG_LEVEL:-INFO}" "$@"
}

role=${1:-web}
[ "$#" -eq 0 ] || shift
case "$role" in
    migrate) # once, before the others: settings in order, tables and static files up to date
        python manage.py check --deploy --fail-level ERROR
        python manage.py migrate --no-input
        exec python manage.py collectstatic --no-input --verbosity 0
        ;;
    web)
        # Every web process counts in a file of its own there, and /metrics adds them up.
        export PROMETHEUS_MULTIPROC_DIR="${PROMETHEUS_MULTIPROC_DIR:-/tmp/metrics}"
        rm -rf "$PROMETHEUS_MULTIPROC_DIR"
        mkdir -p "$PROMETHEUS_MULTIPROC_DIR"
        exec granian --interface wsgi feedback_app.wsgi:application --host 0.0.0.0 --port 8000 \
            --workers "${WEB_WORKERS:-2}" --blocking-threads "${WEB_THREADS:-4}" --respawn-failed-workers \
            --no-ws --log-level warning "$@"
        ;;
    worker) celery_worker --queues ctl --concurrency "${WORKERS:-2}" --hostname "ctl@%h" "$@" ;;
    gpu-worker) # a host of its own: it listens to what is for any, and to what is for it alone
        export HOST_NAME="${HOST_NAME:-$(hostname)}"
        celery_worker --queues "gpu,gpu.$HOST_NAME" --concurrency 1 --hostname "gpu@%h" "$@"
        ;;
    beat) exec celery -A feedback_app beat --schedule /tmp/beat --loglevel "${LOG_LEVEL:-INFO}" "$@" ;;
    *) exec "$role" "$@" ;;
esac
