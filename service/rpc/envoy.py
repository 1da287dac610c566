"""How Envoy is set up as the second door: one listener for gRPC, gRPC-Web and JSON, and Python
behind it in the same process. Built as a dictionary, because Envoy reads JSON.
"""

import base64
import json
import resource
from pathlib import Path
from typing import Any, Final

from service.domain import limits
from service.rpc.transport import Python, Transport

# The contract as Envoy reads it: `python -m service.rpc.descriptors`. A file, because making it
# costs the start of a process 0.3 s of imports.
DESCRIPTORS: Final = Path(__file__).with_name("descriptors.binpb")
SERVICES: Final = ["sixfold.auth.v1.AuthService", "sixfold.data.v1.DataService"]
LISTENER: Final = "sixfold"
ACTIVE_CALLS: Final = f"http.{LISTENER}.downstream_rq_active"
# What Envoy itself, Postgres and the HTTP port need of the file descriptors there are.
RESERVED_DESCRIPTORS: Final = 128
MAX_CONNECTIONS: Final = 10_000
# A page of records as JSON in JSON: every quote escaped.
JSON_ANSWER_BYTES: Final = 8 * 1024 * 1024
# Beside the admin socket: what names the certificate's files, and the folder in which something is
# moved to have Envoy read them again.
CERTIFICATE: Final = "certificate.json"
RENEWED: Final = "renewed"

_TYPE: Final = "type.googleapis.com/"
_V3: Final = "envoy.extensions.{}.v3.{}"


def config(
    host: str, port: int, transport: Transport, *, admin: Path, python: Python
) -> dict[str, Any]:
    """The whole of Envoy's configuration. `admin` is the path of its admin socket."""
    manager = _connection_manager(transport, python)
    tls = _tls(admin.parent) if transport.certificate else {}
    listener = _listener(host, port, manager, tls, shared=transport.shared)
    return {
        "node": {"id": LISTENER, "cluster": LISTENER},  # nobody sees it, but a secret wants it
        "admin": {"address": {"pipe": {"path": str(admin), "mode": 0o600}}},
        "static_resources": {"listeners": [listener]},
        "overload_manager": _overload(),
        "layered_runtime": {"layers": [{"name": "static", "static_layer": _RUNTIME}]},
        "stats_config": {
            "stats_matcher": {"inclusion_list": {"patterns": [{"exact": ACTIVE_CALLS}]}}
        },
    }


# Rapid reset (CVE-2023-44487): a connection is closed once it has had so many calls and more than
# half of them were cancelled within a second. Envoy's own 500 would hit a client that hedges. What
# nghttp2 allows comes on top, and cannot be set: 1,000 cancelled calls, and 33 more each second.
_RUNTIME: Final = {
    "overload.premature_reset_total_stream_count": 5_000,
    "overload.premature_reset_min_stream_lifetime_seconds": 1,
}


def _overload() -> dict[str, Any]:
    """Refuse connections before the process runs out of file descriptors."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = min(MAX_CONNECTIONS, max(descriptors - RESERVED_DESCRIPTORS, 16))
    kind = "resource_monitors.downstream_connections", "DownstreamConnectionsConfig"
    return {
        "resource_monitors": [
            {
                "name": "envoy.resource_monitors.global_downstream_max_connections",
                "typed_config": _typed(*kind, max_active_downstream_connections=most),
            }
        ]
    }


def secret(certificate: Path, key: Path, folder: Path) -> dict[str, Any]:
    """What is to be in CERTIFICATE of `folder`. Envoy reads the files when it starts and whenever
    something is moved in RENEWED, which is for us to do, once the files have been found to fit.
    """
    pair = {
        "certificate_chain": {"filename": str(certificate)},
        "private_key": {"filename": str(key)},
        "watched_directory": {"path": str(folder / RENEWED)},
    }
    return {
        "resources": [
            _typed("transport_sockets.tls", "Secret", tls_certificate=pair) | {"name": LISTENER},
        ]
    }


def _tls(folder: Path) -> dict[str, Any]:
    source = {
        "path_config_source": {"path": str(folder / CERTIFICATE)},
        "resource_api_version": "V3",
    }
    context = _typed(
        "transport_sockets.tls",
        "DownstreamTlsContext",
        common_tls_context={
            "tls_params": {
                "tls_minimum_protocol_version": "TLSv1_2",
                "tls_maximum_protocol_version": "TLSv1_3",
            },
            "alpn_protocols": ["h2", "http/1.1"],
            "tls_certificate_sds_secret_configs": [{"name": LISTENER, "sds_config": source}],
        },
    )
    return {
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": context},
        "transport_socket_connect_timeout": "10s",
    }


def _listener(
    host: str, port: int, manager: dict[str, Any], tls: dict[str, Any], *, shared: bool
) -> dict[str, Any]:
    address = {"address": host, "port_value": port, "ipv4_compat": host == "::"}
    return {
        "name": LISTENER,
        "address": {"socket_address": address},
        # One port, one process, unless they belong together: a second start would take half the
        # calls instead of failing.
        "enable_reuse_port": shared,
        "filter_chains": [
            {
                "filters": [
                    {
                        "name": "envoy.filters.network.http_connection_manager",
                        "typed_config": manager,
                    }
                ],
                **tls,
            }
        ],
    }


def _connection_manager(transport: Transport, python: Python) -> dict[str, Any]:
    return _typed(
        "filters.network.http_connection_manager",
        "HttpConnectionManager",
        stat_prefix=LISTENER,
        route_config={"virtual_hosts": [{"name": "all", "domains": ["*"]}]},
        http_filters=[_grpc_web(), _transcoder(), _python(python)],
        # The peer is who holds the socket, never who a header names.
        use_remote_address=True,
        skip_xff_append=True,
        generate_request_id=False,
        preserve_external_request_id=True,
        server_header_transformation="PASS_THROUGH",
        # The adapter refuses beyond the exact limit, as gRPC does. Beyond 64 KiB Envoy closes the
        # connection (HPACK), whatever is said here.
        max_request_headers_kb=8 * limits.METADATA_BYTES // 1024,
        request_headers_timeout="10s",
        stream_idle_timeout=f"{transport.max_connection_age}s",
        drain_timeout="0.5s",
        common_http_protocol_options={
            "idle_timeout": "1800s",
            # Lets a plain L4 balancer spread connections over new processes.
            "max_connection_duration": f"{transport.max_connection_age}s",
        },
        http2_protocol_options={
            "max_concurrent_streams": transport.max_concurrent_streams,
            # Room for a few of the largest messages, not Envoy's 16 MiB per stream.
            "initial_stream_window_size": 1024 * 1024,
            "initial_connection_window_size": 4 * 1024 * 1024,
            # Floods (CVE-2019-9511 to 9518). Envoy's own defaults, written down.
            "max_outbound_frames": 10_000,
            "max_outbound_control_frames": 1_000,
            "max_consecutive_inbound_frames_with_empty_payload": 1,
            "max_inbound_priority_frames_per_stream": 100,
            "max_inbound_window_update_frames_per_data_frame_sent": 10,
        },
    )


def _grpc_web() -> dict[str, Any]:
    return {
        "name": "envoy.filters.http.grpc_web",
        "typed_config": _typed("filters.http.grpc_web", "GrpcWeb"),
    }


def _transcoder() -> dict[str, Any]:
    """JSON over HTTP by the google.api.http annotations of the protos."""
    return {
        "name": "envoy.filters.http.grpc_json_transcoder",
        "typed_config": _typed(
            "filters.http.grpc_json_transcoder",
            "GrpcJsonTranscoder",
            proto_descriptor_bin=base64.b64encode(DESCRIPTORS.read_bytes()).decode(),
            services=SERVICES,
            convert_grpc_status=True,
            request_validation_options={"reject_unknown_query_parameters": True},
            # A record's key may hold what has a meaning in a path: percent-encoded, it is one part.
            url_unescape_spec="ALL_CHARACTERS",
            print_options={"always_print_primitive_fields": True},
            max_response_body_size=JSON_ANSWER_BYTES,
        ),
    }


def _python(python: Python) -> dict[str, Any]:
    application = {
        "app": python.application,
        "interface": "asgi",
        "root_path": "",
        "lifespan": True,
    }
    return {
        "name": "pyvoy",
        "typed_config": _typed(
            "filters.http.dynamic_modules",
            "DynamicModuleFilter",
            dynamic_module_config={"module": {"local": {"filename": python.library}}},
            filter_name="pyvoy",
            terminal_filter=True,
            filter_config={
                "@type": f"{_TYPE}google.protobuf.StringValue",
                "value": json.dumps(application),
            },
        ),
    }


def _typed(package: str, name: str, **fields: Any) -> dict[str, Any]:
    return {"@type": _TYPE + _V3.format(package, name), **fields}
