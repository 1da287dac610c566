"""gRPC: one method per RPC, and what surrounds a call.

The only folder that knows gRPC and protobuf. Handlers turn a request message into a response (a
message, or its bytes) and raise domain errors; they never meet the call's context, SQL or a clock.

`mount.py` holds what is served, for any door: `server.py` is grpc.aio's; `asgi.py`, on `wire.py`
and `headers.py`, is Envoy's, which `envoy.py` sets up and `behind_envoy.py` opens and closes.
"""
