# The server on HTTP, port 8000, for one user without rights:
#   docker build -t rmi-agent-mcp-server .                              # the target full
#   docker build --target slim -t rmi-agent-mcp-server:slim .           # no numpy, pandas, matplotlib
# docs/docker.md has the lines to run it; compose.yaml runs it with its volumes.
ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY cli cli
COPY server server
COPY kernels kernels
COPY client client
# Without pip of its own: one comes with the package. What is installed is the source here, whose
# pyproject.toml bounds the versions.
# hadolint ignore=DL3013
RUN python -m venv --without-pip /opt/rmi-agent \
 && pip --python /opt/rmi-agent/bin/python install --no-cache-dir --compile .

# What people expect of a Python that they did not set up; and ngrok, for --tunnel.
FROM build AS build-full
# hadolint ignore=DL3013
RUN pip --python /opt/rmi-agent/bin/python install --no-cache-dir --compile ".[full,ngrok]"

FROM python:${PYTHON}-slim AS runtime
LABEL org.opencontainers.image.title="RmiAgentMcpServer" \
      org.opencontainers.image.description="An MCP server that runs Python on Jupyter kernels" \
      org.opencontainers.image.licenses="Apache-2.0"
# bubblewrap for the sandbox, where the container may make namespaces; tini takes up the orphans
# of what ran. Debian keeps one version of each in a release, so there is none to pin.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends bubblewrap tini \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --gid 10001 agent \
 && useradd --uid 10001 --gid agent --home-dir /home/agent --shell /usr/sbin/nologin agent \
 # For any --user, so that what is mounted can be written by whom it belongs to.
 && mkdir -p /data/python_projects /data/notebooks /home/agent \
 && chmod 1777 /data/python_projects /data/notebooks /home/agent
ENV PATH=/opt/rmi-agent/bin:$PATH \
    HOME=/home/agent \
    RMI_AGENT_HOST=0.0.0.0 \
    PYTHON_PROJECTS_DIR=/data/python_projects \
    RMI_AGENT_NOTEBOOKS_DIR=/data/notebooks
USER 10001:10001
WORKDIR /home/agent
VOLUME ["/data/python_projects", "/data/notebooks", "/home/agent"]
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s CMD ["python", "-c", "import http.client, os; asked = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('RMI_AGENT_PORT') or 8000), timeout=4); asked.request('GET', '/healthz'); raise SystemExit(asked.getresponse().status != 200)"]
ENTRYPOINT ["tini", "--", "rmi-agent-mcp-server"]
CMD ["--transport", "http"]

# uv comes with the package, as in both: code can install what is missing.
FROM runtime AS slim
COPY --from=build /opt/rmi-agent /opt/rmi-agent

FROM runtime AS full
COPY --from=build-full /opt/rmi-agent /opt/rmi-agent
