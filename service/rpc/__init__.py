"""gRPC: one method per RPC, and what surrounds a call.

The only folder that knows gRPC and protobuf. Handlers turn a request message into a response
message and raise domain errors; they never meet the call's context, SQL or a clock.
"""
