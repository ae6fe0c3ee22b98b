# One binary, `fanfare`, in a small image; the command says which process it is.

FROM rust:1-slim-trixie AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev
WORKDIR /src
COPY . .
RUN cargo build --release --locked -p cli

FROM debian:trixie-slim
# The user who reads tokens/ and certs/ on the host: most hosts' first user has 1000.
ARG UID=1000
# A new volume takes owner and mode from the folder that it is mounted on.
RUN groupadd --gid "$UID" fanfare \
    && useradd --uid "$UID" --gid "$UID" --no-create-home --shell /usr/sbin/nologin fanfare \
    && install -d -o "$UID" -g "$UID" -m 0700 /fanfare/sockets /fanfare/data \
    && install -d -o "$UID" -g "$UID" -m 0755 /fanfare/tokens /fanfare/certs
COPY --from=build /src/target/release/fanfare /usr/local/bin/fanfare
WORKDIR /fanfare
USER $UID:$UID
# DOOR is listen or broadcast, as the command is; without it health asks both.
ENV DOOR=""
HEALTHCHECK --interval=5s --timeout=5s --start-period=10s --retries=3 \
    CMD exec fanfare health $DOOR
ENTRYPOINT ["fanfare"]
CMD ["--help"]
