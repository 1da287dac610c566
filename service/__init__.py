"""A service that knows who you are and keeps your data. It remembers nothing itself.

    __main__.py   the command line
    app.py        builds everything, once; start order, and stop order reversed
    process.py    one serving process; behind Envoy, envoy_launcher starts envoy_process
    supervisor.py several of them at one port, each a worker.py; control.py is how they talk
    settings.py   every environment variable, one frozen object
    http_port.py  what the HTTP side port has: JWKS, probes, metrics; served by http_server.py
    rpc/          one method per RPC; the only folder that knows gRPC and protobuf
    store/        one module per table; the only folder that knows SQL
    domain/       decisions, and nothing else
    telemetry/    logs and metrics; imports nothing of ours

Imports go __main__ → app → rpc → store → domain, never up; `lint-imports` holds it.
"""
