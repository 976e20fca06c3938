#!/bin/sh
# Serve the model directory that CURRENT_FILE names, and start anew when it names another.
# A push writes the file on the shared volume; nobody needs the right to restart containers. What is given as arguments
# goes to the launcher. A launcher that ends by itself ends this too, with its code: the restart policy takes over.
set -eu
: "${CURRENT_FILE:?the file that names the model directory}"
launcher=${LAUNCHER:-text-generation-launcher}
poll=${POLL_S:-2}
child=

stop() {
    if [ -n "$child" ]; then
        kill -TERM "$child" 2>/dev/null || true
        wait "$child" || true
    fi
    exit 0
}
trap stop TERM INT

wanted() {
    if [ -s "$CURRENT_FILE" ]; then head -n 1 "$CURRENT_FILE"; else printf '%s\n' "${FIRST_MODEL:-}"; fi
}

pause() { # a wait, unlike a sleep, is broken off by a signal
    sleep "$poll" &
    wait "$!" || true
}

while :; do
    model=$(wanted)
    if [ -z "$model" ]; then
        pause
        continue
    fi
    echo "serving $model"
    "$launcher" --model-id "$model" "$@" &
    child=$!
    while kill -0 "$child" 2>/dev/null; do
        if [ "$(wanted)" != "$model" ]; then
            echo "$CURRENT_FILE names another: $(wanted)"
            kill -TERM "$child" 2>/dev/null || true
            wait "$child" || true
            child=
            break
        fi
        pause
    done
    if [ -n "$child" ]; then
        code=0
        wait "$child" || code=$?
        echo "$launcher ended with code $code" >&2
        exit "$code"
    fi
done
