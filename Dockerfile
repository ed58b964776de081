# Debian rather than Alpine: wheels with compiled parts expect glibc. Not built in CI, where no Docker engine runs.
FROM node:22-bookworm-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/ipcctl
COPY package.json bun.lock ./
RUN npm install --no-audit --no-fund --no-package-lock --ignore-scripts --prefix /tmp/boot bun@1.4.5 \
  && /tmp/boot/node_modules/@oven/bun-linux-*/bin/bun install --frozen-lockfile --production
COPY bin bin
COPY contract contract
COPY src src
COPY native native
RUN sh native/build.sh \
  && node_modules/bun/bin/bun.exe build src/main.ts --target=bun --minify --splitting --outdir build/js

FROM python:3.11-slim-bookworm
COPY --from=build /opt/ipcctl /opt/ipcctl
RUN ln -s /opt/ipcctl/bin/ipcctl /usr/local/bin/ipcctl && useradd --create-home worker
USER worker
STOPSIGNAL SIGTERM
HEALTHCHECK CMD ["ipcctl", "daemon", "status"]
# Orphans are reaped, so no `--init` is needed. Workers are ended with the container, after SIGTERM and their grace: give `docker stop -t` more
# time than the longest stop_timeout. `--exit-with NAME` ends the container with a worker, and as that ended; `all` and `any` are for more of them.
CMD ["ipcctl", "daemon", "--stop-workers"]
