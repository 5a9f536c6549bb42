#!/bin/sh
# Puts the present code into service and loses no request: new web containers start beside the
# old ones, which are stopped only when the new ones are healthy. Run it as `make upgrade`.
set -eu
cd "$(dirname "$0")/.."

old=$(docker compose ps --quiet web)
count=$(echo "$old" | grep -c . || true)
if [ "$count" -eq 0 ]; then
    echo "Nothing serves yet: start it with docker compose up --build --detach --wait" >&2
    exit 1
fi

docker compose build migrate
docker compose run --rm --no-deps migrate
if ! docker compose up --detach --wait --no-deps --no-recreate --scale "web=$((2 * count))" web; then
    docker rm --force $(docker compose ps --all --quiet web | grep -vxF "$old") > /dev/null
    echo "The new containers do not start. They are removed; the old ones go on." >&2
    exit 1
fi

# While they started, the proxy has tried the new ones in vain, and passes such a server over for
# fail_timeout (2 s): were the old ones stopped now, it could find none.
sleep 3

for container in $old; do
    docker stop --timeout 40 "$container" > /dev/null # answers what it has begun
    docker rm "$container" > /dev/null
done
docker compose up --detach --wait --no-deps --no-recreate web # as many as WEB_REPLICAS says
