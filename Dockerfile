# The environment of envs/cpu.txt, and the project in it:
#   docker build -t implicit-tuning . && docker run -v "$PWD/results:/project/results" implicit-tuning
# Arguments are targets of make: docker run ... implicit-tuning plan CONFIG=experiments/paper.yaml
FROM python:3.11-slim-bookworm
RUN apt-get update && apt-get install --yes --no-install-recommends git make && rm -rf /var/lib/apt/lists/*
WORKDIR /project
# Before the rest, so that the environment is built again only if it changes.
COPY envs envs
RUN sh envs/build.sh
COPY . .
ENTRYPOINT ["make"]
CMD ["run"]
