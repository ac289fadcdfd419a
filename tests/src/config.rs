//! Configurations that most tests need, as text of the agent's own file; sections are joined by `+`.

use std::net::SocketAddr;

use crate::Jaeger;

/// One entry point `web` on a free port, one router `all` with that rule, one server.
#[must_use]
pub fn forward(rule: &str, server: SocketAddr) -> String {
    format!(
        "entryPoints:
  web: {{address: \"127.0.0.1:0\"}}
http:
  routers:
    all: {{rule: \"{rule}\", service: up}}
  services:
    up: {{loadBalancer: {{servers: [{{url: \"http://{server}\"}}]}}}}
"
    )
}

/// Every request traced, spans to `jaeger` over gRPC.
#[must_use]
pub fn traced(jaeger: &Jaeger) -> String {
    format!(
        "tracing:
  serviceName: wayspan
  sampleRate: 1.0
  otlp: {{grpc: {{endpoint: \"{}\", insecure: true}}}}
",
        jaeger.otlp_grpc()
    )
}
