# Debian rather than Alpine: wheels with compiled parts expect glibc.
FROM node:22-bookworm-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends binutils gcc libc6-dev python3-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# What is installed is what is published.
RUN sh scripts/pack.sh /packages \
  && npm install -g --prefix /opt/ipcctl --ignore-scripts --no-audit --no-fund /packages/*.tgz

FROM python:3.11-slim-bookworm
COPY --from=build /opt/ipcctl /opt/ipcctl
RUN ln -s /opt/ipcctl/bin/ipcctl /usr/local/bin/ipcctl && useradd --create-home worker
USER worker
WORKDIR /home/worker
# Docker ends the container with this signal: workers get theirs, and their grace. Give `docker stop -t` more time than the longest of those.
STOPSIGNAL SIGTERM
# Healthy is a daemon that answers, on a machine where a confined worker can be started.
HEALTHCHECK CMD ipcctl --no-autostart status && ipcctl run -c pass
# As process 1 it reaps orphans, so no `--init` is needed. `--exit-with NAME` ends the container with a worker, and as that ended.
CMD ["ipcctl", "daemon", "--stop-workers"]
